"""Writes vectors.txt: what croniter, an independent implementation of cron, says about random expressions.

    python -m venv venv && venv/bin/pip install -r requirements.txt && venv/bin/python generate.py

The release of tzdata is the one that is compiled into chrono-tz, so that both sides know the same changes of clocks.
Three kinds of line, fields separated by "|"; moments are seconds since the Unix epoch, instants are seconds after the
one before (the first: after the start):

    U|expression|start|instants                       croniter in UTC
    P|expression|zone|gap|repeat|start|end|instants   the wall times that croniter names without a zone, placed by the
                                                      rules of Python's zoneinfo: every instant in (start, end]
    Z|expression|zone|start|end|instants              croniter with the zone, with its own ideas of clocks that change
"""

import calendar
import random
import zoneinfo
from datetime import datetime, timedelta, timezone
from pathlib import Path

from croniter import croniter

zoneinfo.reset_tzpath(to=[])  # the package's data and not this machine's
UTC = timezone.utc
RANDOM = random.Random(20261121)
ZONES = """Africa/Cairo Africa/Casablanca America/Asuncion America/Caracas America/Havana America/New_York America/Nuuk
America/Santiago America/Sao_Paulo America/St_Johns Antarctica/Troll Asia/Amman Asia/Beirut Asia/Gaza Asia/Kathmandu
Asia/Pyongyang Asia/Tehran Atlantic/Azores Australia/Lord_Howe Australia/Sydney Europe/Dublin Europe/Istanbul
Europe/London Europe/Moscow Europe/Paris Pacific/Apia Pacific/Auckland Pacific/Chatham Pacific/Kiritimati""".split()
MONTHS = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()
DAYS = "SUN MON TUE WED THU FRI SAT".split()


def field(low, high, names=()):
    def value():
        number = RANDOM.randint(low, high)
        return names[number - low] if names and number - low < len(names) and RANDOM.random() < 0.3 else str(number)

    def span():
        first, last = sorted(RANDOM.sample(range(low, high + 1), 2))
        return f"{first}-{last}"

    kind = RANDOM.random()
    if kind < 0.35:
        return "*"
    if kind < 0.5:
        return f"*/{RANDOM.randint(1, max(2, (high - low) // 2))}"
    if kind < 0.7:
        return value()
    if kind < 0.8:
        return span()
    if kind < 0.9:
        return f"{span()}/{RANDOM.randint(1, max(2, (high - low) // 3))}"
    return ",".join(value() if RANDOM.random() < 0.7 else span() for _ in range(RANDOM.randint(2, 4)))


def expression():
    day_of_month = "L" if RANDOM.random() < 0.03 else field(1, 31)
    day_of_week = field(0, 6, DAYS)
    if RANDOM.random() < 0.05:
        day_of_week = f"{RANDOM.randint(0, 6)}#{RANDOM.randint(1, 5)}"
    fields = [field(0, 59), field(0, 23), day_of_month, field(1, 12, MONTHS), day_of_week]
    if RANDOM.random() < 0.2:
        fields.insert(0, field(0, 59))
    return " ".join(fields)


def times():
    """An expression of the hours in which clocks change."""
    minute = RANDOM.choice(["0", "30", "15,45", "*/15", "*/7", "10-50/20", "59", "0-59/30", str(RANDOM.randint(0, 59))])
    hour = RANDOM.choice(["*", "0", "1", "2", "3", "23", "0,12", "1-3", "*/2", "2,14", "22-23", "0-4", "*/6"])
    return f"{minute} {hour} * * *"


def over(text, start):
    seconds_first = len(text.split()) > 5
    # `implement_cron_bug`: a day field that begins with a star restricts nothing, as crontab(5) has it.
    return croniter(
        text, start, second_at_beginning=seconds_first, implement_cron_bug=True, max_years_between_matches=20
    )


def changes(zone):
    """The moments from 1970 to 2037 at which a zone's clock changes."""
    info = zoneinfo.ZoneInfo(zone)
    offset = lambda moment: datetime.fromtimestamp(moment, UTC).astimezone(info).utcoffset()
    found, moment, end = [], 0, calendar.timegm((2037, 12, 31, 0, 0, 0))
    while moment < end:
        low, high = moment, moment + 86400
        moment = high
        if offset(low) == offset(high):
            continue
        held = offset(low)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset(middle) == held else (low, middle)
        found.append(high)
    return found


def place(wall, info, gap, repeat):
    """The instants of a wall time, by PEP 495: a fold says whether a time is shown twice or never."""
    first, last = (wall.replace(tzinfo=info, fold=fold).astimezone(UTC) for fold in (0, 1))
    shown = first.astimezone(info).replace(tzinfo=None) == wall
    if not shown:
        if gap == "skip":
            return []
        # Both folds lie on either side of the change, which is where the offset is no longer that before it.
        low, high = sorted((int(first.timestamp()), int(last.timestamp())))
        held = datetime.fromtimestamp(low, UTC).astimezone(info).utcoffset()
        while high - low > 1:
            middle = (low + high) // 2
            same = datetime.fromtimestamp(middle, UTC).astimezone(info).utcoffset() == held
            low, high = (middle, high) if same else (low, middle)
        return [high]
    first, last = int(first.timestamp()), int(last.timestamp())
    return {"first": [first], "last": [last], "both": [first, last]}[repeat]


def deltas(start, instants):
    line = []
    for instant in instants:
        line.append(str(instant - start))
        start = instant
    return ",".join(line)


def in_utc(count):
    while count:
        text, start = expression(), RANDOM.randint(1_600_000_000, 2_000_000_000)
        try:
            instants = over(text, datetime.fromtimestamp(start, UTC))
            found = [int(instants.get_next(float)) for _ in range(5)]
        except Exception:  # a day that never comes: what croniter does then is not asked
            continue
        yield f"U|{text}|{start}|{deltas(start, found)}"
        count -= 1


def around(moments):
    zone = RANDOM.choice(ZONES)
    if zone not in moments:
        moments[zone] = changes(zone)
    change = RANDOM.choice(moments[zone])
    start = (change - RANDOM.randint(0, 18_000)) // 60 * 60
    return zone, zoneinfo.ZoneInfo(zone), start, start + 6 * 3600


def placed(count, moments):
    for _ in range(count):
        zone, info, start, end = around(moments)
        text, gap, repeat = times(), RANDOM.choice(["skip", "shift"]), RANDOM.choice(["first", "last", "both"])
        # Two days about the change hold every wall time whose instant can lie between start and end.
        wall = datetime.fromtimestamp(start, UTC).astimezone(info).replace(tzinfo=None) - timedelta(days=2)
        walls, last = over(text, wall), wall + timedelta(days=5)
        found = set()
        while (wall := walls.get_next(datetime)) < last:
            found.update(place(wall, info, gap, repeat))
        inside = sorted(instant for instant in found if start < instant <= end)
        yield f"P|{text}|{zone}|{gap}|{repeat}|{start}|{end}|{deltas(start, inside)}"


def zoned(count, moments):
    for _ in range(count):
        zone, info, start, end = around(moments)
        text = times()
        instants = over(text, datetime.fromtimestamp(start, UTC).astimezone(info))
        found = []
        while len(found) < 400 and (instant := int(instants.get_next(float))) <= end:
            found.append(instant)
        yield f"Z|{text}|{zone}|{start}|{end}|{deltas(start, found)}"


def main():
    moments = {}
    lines = [*in_utc(4_000), *placed(4_000, moments), *zoned(1_500, moments)]
    Path(__file__).with_name("vectors.txt").write_text("\n".join(lines) + "\n")


main()
