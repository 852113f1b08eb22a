"""The page that shows a run: `run_data` reads, `figures` and `tables` choose, `page` writes."""
