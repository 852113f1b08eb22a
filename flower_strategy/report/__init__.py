"""The page that shows a run: `data` reads the run, `figures` draws, `page` writes the HTML."""
