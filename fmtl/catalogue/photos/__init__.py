"""Where photos lie: below one folder, in cells of a table, or at addresses; and how what a table says is found."""
