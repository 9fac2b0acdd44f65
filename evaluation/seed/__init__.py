"""What all methods of one seed share."""
