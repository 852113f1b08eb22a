"""The other model: how it is asked, what it answers, and when it is left alone for a while."""
