"""The codec service: audio to codes and back."""
