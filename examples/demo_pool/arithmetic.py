"""Arithmetic word problems in two or three steps: those of the pool, and others, told differently, for the target."""

import random

from .task import NAMES, Maker


def change(rng: random.Random) -> tuple[str, str]:
    name, item = rng.choice(NAMES), rng.choice(("pens", "mugs", "kites", "candles", "notebooks", "lemons"))
    count, price, rest = rng.randint(3, 9), rng.randint(2, 8), rng.randint(1, 20)
    cost = count * price
    return (
        f"{name} buys {count} {item} for {price} dollars each and pays with {cost + rest} dollars. How much"
        " change is due?",
        f"The {item} cost {count} * {price} = {cost} dollars. The change is {cost + rest} - {cost} = {rest} dollars.",
    )


def sharing(rng: random.Random) -> tuple[str, str]:
    thing = rng.choice(("marbles", "stickers", "cards", "shells", "sweets"))
    children, each, lost = rng.randint(3, 9), rng.randint(6, 15), rng.randint(1, 5)
    total = children * each
    return (
        f"{children} children share {total} {thing} equally. One of them then loses {lost}. How many {thing}"
        " does that child have left?",
        f"Each child gets {total} / {children} = {each} {thing}. After losing {lost} there are {each} - {lost}"
        f" = {each - lost} left.",
    )


def journey(rng: random.Random) -> tuple[str, str]:
    vehicle = rng.choice(("bus", "train", "truck", "cyclist", "boat"))
    speed, hours, more = rng.randint(4, 19) * 5, rng.randint(2, 7), rng.randint(3, 40)
    far = speed * hours
    return (
        f"A {vehicle} moves at {speed} km per hour for {hours} hours and then covers {more} km more. How far"
        " does it go?",
        f"In {hours} hours it covers {speed} * {hours} = {far} km. Together with {more} km that is {far} +"
        f" {more} = {far + more} km.",
    )


def saving(rng: random.Random) -> tuple[str, str]:
    name, weeks = rng.choice(NAMES), rng.randint(3, 12)
    start, weekly = rng.randint(10, 60), rng.randint(4, 15)
    saved = weeks * weekly
    return (
        f"{name} has {start} euros and saves {weekly} euros a week. How much money is there after {weeks} weeks?",
        f"{weeks} weeks bring {weeks} * {weekly} = {saved} euros. With the first {start} euros that makes"
        f" {start} + {saved} = {start + saved} euros.",
    )


def twice(rng: random.Random) -> tuple[str, str]:
    first, second = rng.sample(NAMES, 2)
    thing = rng.choice(("stamps", "coins", "books", "toy cars"))
    own, factor = rng.randint(6, 30), rng.choice((2, 3, 4))
    word = {2: "twice", 3: "three times", 4: "four times"}[factor]
    return (
        f"{first} owns {own} {thing}. {second} owns {word} as many. How many {thing} do they own together?",
        f"{second} owns {factor} * {own} = {factor * own} {thing}. Together they own {own} + {factor * own} ="
        f" {own + factor * own}.",
    )


def eggs(rng: random.Random) -> tuple[str, str]:
    hens, each, broken = rng.randint(5, 20), rng.randint(2, 6), rng.randint(1, 8)
    laid = hens * each
    return (
        f"On a farm {hens} hens lay {each} eggs each, and {broken} eggs break. How many whole eggs remain?",
        f"The hens lay {hens} * {each} = {laid} eggs. After {broken} break, {laid} - {broken} = {laid - broken}"
        " eggs remain.",
    )


def reading(rng: random.Random) -> tuple[str, str]:
    name, daily, days, left = rng.choice(NAMES), rng.randint(8, 30), rng.randint(3, 9), rng.randint(5, 60)
    read = daily * days
    return (
        f"A novel has {read + left} pages. {name} reads {daily} pages a day for {days} days. How many pages are"
        " unread?",
        f"In {days} days {name} reads {daily} * {days} = {read} pages. Unread are {read + left} - {read} ="
        f" {left} pages.",
    )


def seats(rng: random.Random) -> tuple[str, str]:
    rows, wide, taken = rng.randint(6, 20), rng.randint(5, 14), rng.randint(10, 29)
    total = rows * wide
    return (
        f"A hall has {rows} rows of {wide} seats. {taken} seats are taken. How many seats are free?",
        f"There are {rows} * {wide} = {total} seats. Free are {total} - {taken} = {total - taken} seats.",
    )


def wages(rng: random.Random) -> tuple[str, str]:
    name, rate, hours, tax = rng.choice(NAMES), rng.randint(11, 30), rng.randint(4, 9), rng.randint(5, 40)
    pay = rate * hours
    return (
        f"{name} works {hours} hours at {rate} dollars an hour and pays {tax} dollars of tax. What is left?",
        f"The pay is {hours} * {rate} = {pay} dollars. After tax {pay} - {tax} = {pay - tax} dollars are left.",
    )


def library(rng: random.Random) -> tuple[str, str]:
    shelves, books, lent = rng.randint(4, 16), rng.randint(9, 25), rng.randint(3, 30)
    held = shelves * books
    return (
        f"Every one of the {shelves} shelves in a school library can hold {books} volumes. All were full until"
        f" {lent} volumes"
        " were lent out. How many stand there now?",
        f"Full shelves hold {shelves} * {books} = {held} volumes. {held} - {lent} = {held - lent} volumes stand"
        " there now.",
    )


def bakery(rng: random.Random) -> tuple[str, str]:
    trays, rolls, bags = rng.randint(3, 9), rng.choice((12, 18, 24, 30)), rng.choice((3, 6))
    baked = trays * rolls
    return (
        f"A baker takes {trays} trays with {rolls} rolls each out of the oven and packs them in bags of {bags}."
        " How many bags are filled?",
        f"There are {trays} * {rolls} = {baked} rolls. They fill {baked} / {bags} = {baked // bags} bags.",
    )


def tickets(rng: random.Random) -> tuple[str, str]:
    adults, kids, full, half = rng.randint(2, 6), rng.randint(2, 9), rng.randint(8, 15), rng.randint(3, 7)
    return (
        f"Zoo tickets are {full} pounds for grown-ups and {half} pounds for pupils. What do {adults} grown-ups"
        f" and {kids} pupils pay?",
        f"The grown-ups pay {adults} * {full} = {adults * full} pounds, the pupils {kids} * {half} ="
        f" {kids * half} pounds. "
        f"In all it is {adults * full} + {kids * half} = {adults * full + kids * half} pounds.",
    )


def tank(rng: random.Random) -> tuple[str, str]:
    inflow, leak, minutes = rng.randint(9, 25), rng.randint(1, 6), rng.randint(5, 20)
    net = inflow - leak
    return (
        f"Water runs into a barrel at {inflow} litres a minute while {leak} litres a minute leak away. What is"
        f" in it after {minutes} minutes?",
        f"Each minute adds {inflow} - {leak} = {net} litres. After {minutes} minutes there are {net} *"
        f" {minutes} = {net * minutes} litres.",
    )


def taxi(rng: random.Random) -> tuple[str, str]:
    base, per_km, distance = rng.randint(3, 9), rng.randint(2, 4), rng.randint(5, 25)
    ride = per_km * distance
    return (
        f"A taxi asks {base} francs to start and {per_km} francs per kilometre. What does a ride of {distance}"
        " kilometres cost?",
        f"The distance costs {per_km} * {distance} = {ride} francs. With the start it is {base} + {ride} ="
        f" {base + ride} francs.",
    )


def ages(rng: random.Random) -> tuple[str, str]:
    young, gap, years = rng.randint(5, 15), rng.randint(20, 35), rng.randint(2, 12)
    return (
        f"A mother is {gap} years older than her daughter, who is {young}. How old will the mother be in"
        f" {years} years?",
        f"Today the mother is {young} + {gap} = {young + gap}. In {years} years she will be {young + gap} +"
        f" {years} = {young + gap + years}.",
    )


POOL: tuple[Maker, ...] = (change, sharing, journey, saving, twice, eggs, reading, seats, wages)
TARGET: tuple[Maker, ...] = (library, bakery, tickets, tank, taxi, ages)
"""No story of the target is told in the pool."""
