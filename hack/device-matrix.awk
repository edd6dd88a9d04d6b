# From the lines `MATRIX <backend> <test> <outcome>` of the conformance suite to a table of test x backend; reasons stand
# below it, once each. Ends with failure when a test failed, or none ran.
BEGIN { FS = "\t" }
$1 == "MATRIX" {
    if (!($2 in seen)) { seen[$2] = 1; backends[++columns] = $2 }
    if (!($3 in known)) { known[$3] = 1; tests[++rows] = $3 }
    outcome = $4
    if (outcome ~ /^skipped: /) {
        reason = $2 ": " substr(outcome, 10)
        if (!(reason in number)) { number[reason] = ++notes; text[notes] = reason }
        outcome = "skipped [" number[reason] "]"
    }
    if (outcome == "FAILED") failed++
    cell[$2, $3] = outcome
    count[outcome ~ /^skipped/ ? "skipped" : outcome]++
    if (length($3) > width) width = length($3)
}
END {
    printf "%-" width "s", "TEST"
    for (c = 1; c <= columns; c++) printf "  %-12s", toupper(backends[c])
    print ""
    for (r = 1; r <= rows; r++) {
        printf "%-" width "s", tests[r]
        for (c = 1; c <= columns; c++) {
            outcome = cell[backends[c], tests[r]]
            printf "  %-12s", outcome == "" ? "-" : outcome
        }
        print ""
    }
    for (n = 1; n <= notes; n++) printf "[%d] skipped: %s\n", n, text[n]
    printf "%d pass, %d skipped, %d FAILED\n", count["pass"], count["skipped"], failed
    exit failed > 0 || rows == 0
}
