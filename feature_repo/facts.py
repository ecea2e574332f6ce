"""The bundled problem's frozen facts. Each stands here once; everything else imports it."""

from datetime import timedelta

TIME_ZONE = "America/New_York"
AIRPORTS = ("EWR", "JFK", "LGA")
LATE_MINUTES = 15  # late: at the gate this many minutes, or more, after the timetable
DECIDE_AHEAD = timedelta(hours=2)  # a prediction is asked for this long before the scheduled departure
TAXI = timedelta(minutes=25)  # from landing to the gate; the source does not say
WEATHER_DELAY = timedelta(minutes=55)  # an hour's observation is made at :51 and published at once
RECENT_HOURS = 3  # how far back "just now" reaches
PRIOR = 0.24  # share of late flights; answers before any model was ever promoted
HORIZON = timedelta(days=2)  # decision to outcome: longer than the longest delay plus the longest flight
