"""What `netpress` says when it is given no command."""

WELCOME = """\
netpress makes a trained convolutional network small and fast, and proves it:
it prunes, shares, quantizes and codes what is left, retrains, measures what
really came out, and writes one file that runs without PyTorch.

Try
  netpress doctor       what this machine has, what is missing and what for
  netpress demo         a network on handwritten digits, in two minutes
  netpress compress lenet5 --data digits --minutes 3 --out runs/first
                        a search for the smallest that loses one point at most

Read
  netpress --help       all commands; netpress COMMAND --help: one of them
  docs/start.md         from the installation to a network of yours"""
