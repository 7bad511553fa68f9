// Writes random regular expressions with what Go makes of them, as Prometheus uses it:
//
//	go run crates/fodc-model/tests/expressions/main.go > crates/fodc-model/tests/expressions/table.tsv
//
// The first line has the values. Each other line has an expression, quoted, and a digit for each value: 1 if it
// matches as a whole. A refused expression has an exclamation mark. Names of scripts are spelled as Unicode does:
// other spellings are refused by the versions of Go before 1.25.
package main

import (
	"bufio"
	"fmt"
	"math/rand"
	"os"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
)

var values = []string{
	"", "a", "ab", "aab", "b", "A", "é", "٣", "3", "33", "_", "-", "a-b", "a.b", "[a", "]", "{", "a{,2}", "{1",
	"\n", "a\nb", "\t", "\v", " ", "&", "a&&b", "\u212a", "ſ", "K", "^", "$", "\\", "😱", "|", "(a)",
}

var pieces = []string{
	"a", "b", "A", "é", "٣", "3", "_", "-", ".", "^", "$", "|", "(", ")", "(?:", "(?i)", "(?i:", "(?s)", "(?-s:",
	"(?m)", "(?U)", "(?P<n>", "(?<n>", "(?x)", "(?=", "(?", "[", "]", "[^", "[a-", "[]", "[^]", "[[:alpha:]]",
	"[[:^digit:]]", "[[:word:]", "[:space:]", "&&", "--", "~~", "[a&&b]", "{", "}", "{2}", "{,2}", "{1,}", "{1,2}",
	"{2,1}", "{0}", "{1001}", "{01}", "*", "+", "?", "*?", "+?", "??", "**", `\`, `\d`, `\D`, `\w`, `\W`, `\s`, `\S`,
	`\b`, `\B`, `\A`, `\z`, `\Z`, `\Q`, `\E`, `\pL`, `\PL`, `\p{Lu}`, `\p{^Lu}`, `\p{Greek}`, `\pZ`,
	`\x41`, `\x{e9}`, `\x{110000}`, `\101`, `\1`, `\8`, `\n`, `\t`, `\v`, `\a`, `\f`, `\r`, `\C`, `\.`, `\-`, `\_`,
	`\<`, `\é`, `\y`, "\n", "\t", " ", "#", "K", "ſ", "\u212a", "😱",
}

func main() {
	random := rand.New(rand.NewSource(1))
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	quoted := make([]string, len(values))
	for i, value := range values {
		quoted[i] = strconv.QuoteToASCII(value)
	}
	fmt.Fprintln(out, strings.Join(quoted, "\t"))
	seen := map[string]bool{}
	for len(seen) < 4000 {
		var text strings.Builder
		for range 1 + random.Intn(6) {
			text.WriteString(pieces[random.Intn(len(pieces))])
		}
		expression := text.String()
		if seen[expression] {
			continue
		}
		seen[expression] = true
		// As NewFastRegexMatcher of Prometheus.
		parsed, err := syntax.Parse(expression, syntax.Perl|syntax.DotNL)
		verdict := "!"
		if err == nil {
			compiled := regexp.MustCompile("^(?s:" + parsed.String() + ")$")
			verdict = ""
			for _, value := range values {
				if compiled.MatchString(value) {
					verdict += "1"
				} else {
					verdict += "0"
				}
			}
		}
		fmt.Fprintf(out, "%s\t%s\n", strconv.QuoteToASCII(expression), verdict)
	}
}
