"""What deploys the service, and what its images are built with."""
