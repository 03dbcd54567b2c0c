"""What one does with finished artifacts: open, label, embed, look, compare, export."""
