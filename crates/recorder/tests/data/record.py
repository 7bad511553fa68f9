#!/usr/bin/env python3
"""Takes the raw scrapes that the data set is made of: three exporters, once a second.

    apt-get install prometheus-node-exporter prometheus victoria-metrics
    prometheus-node-exporter --web.listen-address=127.0.0.1:9100 --collector.processes &
    victoria-metrics -httpListenAddr=127.0.0.1:8428 -promscrape.config=targets.yml &
    prometheus --config.file=targets.yml --web.listen-address=127.0.0.1:9090 &
    python3 record.py 3960 raw
    cargo run --release -p steadfast-recorder --example distil -- raw real.pco

targets.yml has the three under scrape_configs with an interval of 1s, so that they have something
to do. The data set that is kept here was taken like this, on other ports, on a machine on which
several compilers and tests were at work.

Each minute becomes one gzip file of frames: source (u8), time in Unix milliseconds (i64), length
(u32, all ones when the scrape was missed), body.
"""
import gzip
import http.client
import os
import struct
import sys
import threading
import time

MISSED = 0xFFFFFFFF
PORTS = [9100, 9090, 8428]


def scrape(connections, index):
    """The time of one scrape, and the page or nothing."""
    began = int(time.time() * 1000)
    try:
        if connections[index] is None:
            connections[index] = http.client.HTTPConnection("127.0.0.1", PORTS[index], timeout=0.9)
        connections[index].request("GET", "/metrics")
        response = connections[index].getresponse()
        page = response.read()
        if response.status != 200:
            raise OSError(response.status)
        return began, page
    except (OSError, http.client.HTTPException):
        connections[index] = None
        return began, None


def main():
    seconds, directory = int(sys.argv[1]), sys.argv[2]
    os.makedirs(directory, exist_ok=True)
    connections = [None] * len(PORTS)
    start = time.time()
    for minute in range(0, seconds, 60):
        with gzip.open(f"{directory}/{minute // 60:04d}.gz", "wb", compresslevel=1) as out:
            for second in range(minute, min(minute + 60, seconds)):
                time.sleep(max(0.0, start + second - time.time()))
                results = [None] * len(PORTS)

                def take(index):
                    results[index] = scrape(connections, index)

                threads = [threading.Thread(target=take, args=(i,)) for i in range(len(PORTS))]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                for index, (began, page) in enumerate(results):
                    length = MISSED if page is None else len(page)
                    out.write(struct.pack("<BqI", index, began, length) + (page or b""))


if __name__ == "__main__":
    main()
