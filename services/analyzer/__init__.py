"""The analyzer service: audio to the scores of discriminators."""
