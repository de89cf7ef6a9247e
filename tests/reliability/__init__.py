"""What a run survives, tried on ours and on stock mmengine."""
