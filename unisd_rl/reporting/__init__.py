"""The page that shows a run, or several: from the files of a run's folder to one HTML file that needs no network.

run's folder --RunRecord--> figures (charts.py), answers and tokens (samples.py) --page.html.j2--> report.html
"""
