"""The base model, the encoder, and fine-tuning."""
