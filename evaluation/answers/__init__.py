"""Answers of adapters, checked exactly."""
