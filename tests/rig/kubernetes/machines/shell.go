package main

import (
	"errors"
	"path"
	"strings"
)

// command is one command of bootcmd or runcmd.
type command struct {
	label string
	words []string
	// after is the operator before the command: "" or ";" for always, "&&" after success, "||" after failure.
	after string
}

// program is the base name of what the command runs, without "sudo".
func (c command) program() (string, []string) {
	words := c.words
	for len(words) > 0 && (words[0] == "sudo" || words[0] == "exec") {
		words = words[1:]
	}
	if len(words) == 0 {
		return "", nil
	}
	return path.Base(words[0]), words[1:]
}

// unwrapShells replaces "sh -c LINE" by the commands of the line.
func unwrapShells(list []command) []command {
	var flat []command
	for _, c := range list {
		program, arguments := c.program()
		if (program == "sh" || program == "bash") && len(arguments) >= 2 && strings.HasPrefix(arguments[0], "-") && strings.HasSuffix(arguments[0], "c") {
			if inner, err := parseShell(arguments[1]); err == nil && len(inner) > 0 {
				inner[0].after = c.after
				for _, one := range inner {
					one.label = c.label
					flat = append(flat, one)
				}
				continue
			}
		}
		flat = append(flat, c)
	}
	return flat
}

var errQuote = errors.New("an unfinished quote")

// parseShell splits a shell line into commands, as far as a provisioning line goes: quotes, backslashes,
// redirections (dropped), the operators ; && || | and line ends. Variables and substitutions stay as text.
func parseShell(line string) ([]command, error) {
	var (
		list    []command
		words   []string
		word    strings.Builder
		inWord  bool
		skip    bool
		after   string
		endWord = func() {
			if inWord && skip {
				skip = false
			} else if inWord {
				words = append(words, word.String())
			}
			word.Reset()
			inWord = false
		}
		endCommand = func(operator string) {
			endWord()
			if len(words) > 0 {
				list = append(list, command{words: words, after: after})
			}
			words, after = nil, operator
		}
	)
	runes := []rune(line)
	for i := 0; i < len(runes); i++ {
		r := runes[i]
		next := rune(0)
		if i+1 < len(runes) {
			next = runes[i+1]
		}
		switch {
		case r == '\\' && next == '\n':
			i++
		case r == '\\' && next != 0:
			word.WriteRune(next)
			inWord = true
			i++
		case r == '\'' || r == '"':
			inWord = true
			for i++; i < len(runes) && runes[i] != r; i++ {
				if r == '"' && runes[i] == '\\' && i+1 < len(runes) && strings.ContainsRune("\"\\$`", runes[i+1]) {
					i++
				}
				word.WriteRune(runes[i])
			}
			if i >= len(runes) {
				return nil, errQuote
			}
		case r == '#' && !inWord:
			for i+1 < len(runes) && runes[i+1] != '\n' {
				i++
			}
		case r == ' ' || r == '\t' || r == '\r':
			endWord()
		case r == '\n' || r == ';':
			endCommand(";")
		case r == '&' && next == '&' || r == '|' && next == '|':
			endCommand(string([]rune{r, next}))
			i++
		case r == '|':
			// What follows a pipe only reads the output.
			endCommand("|")
		case r == '&' && next == '>':
			endWord()
		case r == '&':
			endCommand(";")
		case r == '>' || r == '<':
			// A number directly before belongs to the redirection, "&1" after it too.
			if inWord && strings.Trim(word.String(), "0123456789") == "" {
				word.Reset()
				inWord = false
			}
			endWord()
			if next == '>' || next == '<' {
				i++
			}
			if i+1 < len(runes) && runes[i+1] == '&' {
				i++
			}
			skip = true
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	endCommand("")
	return list, nil
}
