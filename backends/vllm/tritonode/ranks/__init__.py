"""An engine of several processes."""
