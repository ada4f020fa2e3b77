"""The report: one offline HTML page, and its tables as csv and parquet."""
