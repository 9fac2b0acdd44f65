"""Writing, describing and uploading a bundle."""
