"""A command that is the program in its first argument."""

import sys


def main():
    exec(sys.argv[1])
