"""Runs that only look alive, folders that wait for a store, and what takes room."""
