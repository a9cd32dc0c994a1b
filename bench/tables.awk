# SPDX-License-Identifier: MIT
# Rows: add() notes a value, median() of those of one key; -1: there are none. Prefixed to the awk programs of the benchmarks.
function add(key, v) { value[key, ++count[key]] = v }
function median(key,   n, i, j, t, v) {
	n = count[key]
	if (!n) return -1
	for (i = 1; i <= n; i++) v[i] = value[key, i]
	for (i = 2; i <= n; i++) { t = v[i]; for (j = i - 1; j > 0 && v[j] > t; j--) v[j+1] = v[j]; v[j+1] = t }
	return n % 2 ? v[(n+1)/2] : (v[n/2] + v[n/2+1]) / 2
}
# A time in its unit.
function show(ns) {
	if (ns < 0) return "none"
	if (ns >= 1e9) return sprintf("%.2f s", ns / 1e9)
	if (ns >= 1e6) return sprintf("%.2f ms", ns / 1e6)
	if (ns >= 1e3) return sprintf("%.2f us", ns / 1e3)
	return sprintf("%.1f ns", ns)
}
