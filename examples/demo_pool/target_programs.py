"""Held-out programs for the Python target, one a cell; the line after `# %%` is the question, the rest the answer.

Importing the module runs every test. None is a variation of a maker in `code`.
"""


# %% Define a Python function that tells whether a word reads the same backwards.
def is_palindrome(word):
    return word == word[::-1]


assert is_palindrome("level")


# %% Implement the factorial of n in Python without recursion.
def factorial(n):
    result = 1
    for i in range(2, n + 1):
        result *= i
    return result


assert factorial(5) == 120


# %% Implement the greatest common divisor of two integers in Python.
def gcd(a, b):
    while b:
        a, b = b, a % b
    return a


assert gcd(12, 18) == 6


# %% Define a Python function that flattens a list of lists.
def flatten(rows):
    return [item for row in rows for item in row]


assert flatten([[1], [2, 3]]) == [1, 2, 3]


# %% Define a Python function that swaps keys and values of a dictionary.
def invert(table):
    return {value: key for key, value in table.items()}


assert invert({"a": 1}) == {1: "a"}


# %% Implement a test for prime numbers in Python.
def is_prime(n):
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


assert is_prime(13)
assert not is_prime(15)


# %% Implement the Fibonacci sequence as a Python generator.
def fibonacci():
    a, b = 0, 1
    while True:
        yield a
        a, b = b, a + b


numbers = fibonacci()
assert [next(numbers) for _ in range(5)] == [0, 1, 1, 2, 3]


# %% Define a Python function that finds the longest string in a list.
def longest(texts):
    return max(texts, key=len)


assert longest(["a", "abc", "ab"]) == "abc"


# %% Implement binary search over a sorted list in Python.
def find(items, wanted):
    low, high = 0, len(items)
    while low < high:
        middle = (low + high) // 2
        if items[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low


assert find([1, 3, 5], 3) == 1


# %% Define a Python function that groups words by their first letter.
def group(words):
    groups = {}
    for word in words:
        groups.setdefault(word[0], []).append(word)
    return groups


assert group(["ab", "ac"]) == {"a": ["ab", "ac"]}


# %% Implement a Python class for a stack with push and pop.
class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        return self.items.pop()


# %% Define a Python function that computes the mean of a list, and None for an empty one.
def mean(values):
    if not values:
        return None
    return sum(values) / len(values)


assert mean([1, 3]) == 2


# %% Implement a running maximum over a list in Python.
def running_max(values):
    result = []
    for value in values:
        result.append(max(value, result[-1]) if result else value)
    return result


assert running_max([1, 3, 2]) == [1, 3, 3]


# %% Define a Python function that merges two sorted lists.
def merge(a, b):
    result = []
    while a and b:
        source = a if a[0] <= b[0] else b
        result.append(source.pop(0))
    return result + a + b


assert merge([1, 4], [2]) == [1, 2, 4]


# %% Define a Python function that transposes a matrix given as nested lists.
def transpose(matrix):
    return [list(column) for column in zip(*matrix, strict=True)]


assert transpose([[1, 2], [3, 4]]) == [[1, 3], [2, 4]]


# %% Implement a Caesar shift by n letters for lower-case text in Python.
def shift(text, n):
    return "".join(chr((ord(c) - 97 + n) % 26 + 97) for c in text)


assert shift("xyz", 2) == "zab"


# %% Define a Python function that returns the two largest values of a list.
def top_two(values):
    return sorted(values, reverse=True)[:2]


assert top_two([4, 9, 7]) == [9, 7]


# %% Implement the sum of the digits of a number in Python.
def digit_sum(number):
    return sum(int(digit) for digit in str(number))


assert digit_sum(472) == 13


# %% Define a Python decorator that remembers the results of a function.
def remember(function):
    known = {}

    def wrapper(x):
        if x not in known:
            known[x] = function(x)
        return known[x]

    return wrapper


# %% Implement the dot product of two vectors in Python.
def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


assert dot([1, 2], [3, 4]) == 11


# %% Define a Python function that checks whether two words are anagrams.
def anagrams(first, second):
    return sorted(first) == sorted(second)


assert anagrams("listen", "silent")


# %% Implement bubble sort in Python.
def bubble_sort(items):
    for end in range(len(items), 1, -1):
        for i in range(end - 1):
            if items[i] > items[i + 1]:
                items[i], items[i + 1] = items[i + 1], items[i]
    return items


assert bubble_sort([3, 1, 2]) == [1, 2, 3]


# %% Define a Python function that turns a number into its binary digits without bin().
def to_binary(n):
    digits = ""
    while n:
        n, bit = divmod(n, 2)
        digits = str(bit) + digits
    return digits or "0"


assert to_binary(6) == "110"


# %% Define a Python function that parses lines such as a=1 into a dictionary.
def parse(lines):
    return dict(line.split("=", 1) for line in lines)


assert parse(["a=1"]) == {"a": "1"}
