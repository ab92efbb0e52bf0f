package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"
)

// logf writes one line per act to standard error. No caller passes a credential or a machine's user data.
func logf(format string, arguments ...any) {
	line := strings.ReplaceAll(fmt.Sprintf(format, arguments...), "\n", " ")
	fmt.Fprintf(os.Stderr, "%s %s\n", time.Now().UTC().Format("15:04:05.000"), line)
}

var (
	// A bootstrap token as k8s.io/cluster-bootstrap/token/api defines it; its first half is public.
	tokenPattern = regexp.MustCompile(`\b([a-z0-9]{6})\.[a-z0-9]{16}\b`)
	// A Proxmox VE API token: the secret is a UUID after the equals sign.
	apiTokenPattern = regexp.MustCompile(`(![A-Za-z0-9._-]+=)[0-9a-fA-F-]{8,}`)
	pemPattern      = regexp.MustCompile(`(?s)-----BEGIN [A-Z ]+-----.*?(-----END [A-Z ]+-----|$)`)
	// kubeadm's validation quotes a token that is none.
	invalidPattern = regexp.MustCompile(`((?i:token)[^:"]*: Invalid value: )"[^"]*"`)
	bearerPattern  = regexp.MustCompile(`(?i)(bearer )\S+`)
)

// scrub takes credentials out of a text that other code made, such as an error of kubeadm that quotes the
// token it could not read. Secrets known to the caller are removed literally as well.
func scrub(message string, secrets ...string) string {
	for _, secret := range secrets {
		if len(secret) > 3 {
			message = strings.ReplaceAll(message, secret, "(redacted)")
		}
	}
	message = tokenPattern.ReplaceAllString(message, "$1.(redacted)")
	message = apiTokenPattern.ReplaceAllString(message, "$1(redacted)")
	message = bearerPattern.ReplaceAllString(message, "$1(redacted)")
	message = invalidPattern.ReplaceAllString(message, "$1(redacted)")
	message = pemPattern.ReplaceAllString(message, "(PEM)")
	return message
}
