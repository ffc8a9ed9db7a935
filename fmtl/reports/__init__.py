"""What people look at: figures, pages, and a run in ten lines."""
