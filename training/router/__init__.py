"""From clusters to a router that a service can load (section 5.4.2)."""
