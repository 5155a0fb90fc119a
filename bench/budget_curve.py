#!/usr/bin/env python3
"""Draws the budget curve (pass time over budget) as SVG from the JSON of `forebay bench`: budget_curve.py BENCH.json OUT.svg

On a GPU the limit is drawn too: the bytes that a pass streams over the copy rate measured in the same run, or the fully resident pass."""

import json
import sys


def limit_points(bench, rows, full):
    """(share, ms): streamed bytes over the copy rate of the run; the fastest resident row is the floor. Empty without a link."""
    link = bench["limits"].get("link_gbps") or 0
    if not link or not any(r["streamed_bytes"]["link"] for r in rows):
        return []
    floor = min(r["pass_ms"]["p50"] for r in rows)
    return [
        (r["budget_bytes"] / full, max(r["streamed_bytes"]["link"] / link / 1e6, floor if not r["streamed_bytes"]["link"] else 0))
        for r in rows
    ]


def main():
    bench = json.load(open(sys.argv[1], encoding="utf-8"))
    rows = [r for r in bench["rows"] if not r.get("refused")]
    if not rows:
        sys.exit("no row to draw")
    full = rows[0]["full_budget_bytes"]
    points = [(r["budget_bytes"] / full, r["pass_ms"]["p50"], r["bound_by"]) for r in rows]
    limit = limit_points(bench, rows, full)
    top = max(p[1] for p in points) * 1.1
    width, height, left, bottom = 640, 360, 70, 50

    def x(share):
        return left + share * (width - left - 20)

    def y(ms):
        return height - bottom - ms / top * (height - bottom - 20)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for i in range(6):
        share, ms = i / 5, top * i / 5
        out.append(f'<line x1="{x(share):.1f}" y1="20" x2="{x(share):.1f}" y2="{height - bottom}" stroke="#ddd"/>')
        out.append(f'<text x="{x(share):.1f}" y="{height - bottom + 18}" text-anchor="middle">{share * 100:.0f} %</text>')
        out.append(f'<line x1="{left}" y1="{y(ms):.1f}" x2="{width - 20}" y2="{y(ms):.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 6}" y="{y(ms) + 4:.1f}" text-anchor="end">{ms:.0f}</text>')
    out.append(
        '<polyline fill="none" stroke="#1565c0" stroke-width="2" points="'
        + " ".join(f"{x(s):.1f},{y(m):.1f}" for s, m, _ in points)
        + '"/>'
    )
    for share, ms, bound in points:
        out.append(
            f'<circle cx="{x(share):.1f}" cy="{y(ms):.1f}" r="4" fill="#1565c0"><title>{ms:.1f} ms, bound by {bound}</title></circle>'
        )
    if limit:
        out.append(
            '<polyline fill="none" stroke="#c62828" stroke-width="1.5" stroke-dasharray="6 4" points="'
            + " ".join(f"{x(s):.1f},{y(m):.1f}" for s, m in limit)
            + '"/>'
        )
    limits = bench["limits"]
    out.append(f'<text x="{(left + width) / 2}" y="{height - 12}" text-anchor="middle">budget, share of full ({full / 1e9:.2f} GB)</text>')
    out.append(f'<text x="16" y="{height / 2}" transform="rotate(-90 16 {height / 2})" text-anchor="middle">ms per pass (median)</text>')
    if limit:
        out.append(
            f'<text x="{width - 24}" y="34" text-anchor="end">copies from page-locked memory {limits["link_gbps"]:.1f} GB/s, same run</text>'
        )
        out.append(f'<text x="{width - 24}" y="50" text-anchor="end" fill="#c62828">dashed: streamed bytes over that rate</text>')
    else:
        out.append(
            f'<text x="{width - 24}" y="34" text-anchor="end">disk {limits["disk_gbps"]:.2f} GB/s, memory {limits["memory_gbps"]:.1f} GB/s, same run</text>'
        )
    out.append("</svg>")
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        file.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
