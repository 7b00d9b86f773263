"""Sends requests to a server from the command line."""

import argparse
import json

from . import Client


def main() -> None:
    """Send one request and print the answer."""
    parser = argparse.ArgumentParser(
        prog="client", description="Sends texts to the signature `serving_default` of a model."
    )
    parser.add_argument("address", help="http://HOST:8501 or grpc://HOST:8500")
    parser.add_argument("model", help="the name of the model on the server")
    parser.add_argument("text", nargs="+")
    arguments = parser.parse_args()
    with Client(arguments.address, arguments.model) as client:
        print(json.dumps(client(text=arguments.text), ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
