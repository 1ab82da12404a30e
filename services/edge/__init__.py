"""What the edge serves of its own, made from the protos: Envoy's descriptors and the OpenAPI document."""
