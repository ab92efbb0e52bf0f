package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// rule is a fault: requests that match it fail as it says.
type rule struct {
	// Method is empty for any.
	Method string `json:"method"`
	// Path is a Go regular expression on the request's path.
	Path       string  `json:"path"`
	Status     int     `json:"status"`
	RetryAfter int     `json:"retry_after"`
	Message    string  `json:"message"`
	Reason     string  `json:"reason"`
	After      bool    `json:"after"`
	Times      *int    `json:"times"`
	Delay      float64 `json:"delay"`
	Reset      bool    `json:"reset"`

	pattern *regexp.Regexp
	left    int
}

// request is a line of the gate's log: never a header but the user agent, never a body.
type request struct {
	Method    string `json:"method"`
	Path      string `json:"path"`
	Query     string `json:"query"`
	UserAgent string `json:"user_agent"`
	// Status is what the client was answered; 0 for a connection that was cut.
	Status int `json:"status"`
}

// gate stands before the Kubernetes API. It ends TLS, so a client that authenticates with a certificate
// cannot pass: its certificate does not reach the API server, which sees such a request as anonymous.
// Bearer tokens pass through.
type gate struct {
	proxy *httputil.ReverseProxy

	mu    sync.Mutex
	rules []*rule
	seen  []request
	file  *os.File
}

func gateCommand(arguments []string) error {
	flags := flag.NewFlagSet("machines gate", flag.ExitOnError)
	listen := flags.String("listen", "127.0.0.1:0", "`ADDRESS` of the gate, loopback only")
	upstream := flags.String("upstream", "", "`URL` of the Kubernetes API")
	upstreamCA := flags.String("upstream-ca", "", "PEM `FILE` of its authority")
	certificate := flags.String("certificate", "", "PEM `FILE` of the gate's certificate")
	key := flags.String("key", "", "PEM `FILE` of its key")
	file := flags.String("log", "", "`FILE` that gets a JSON line per request; none is written without it")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if *upstream == "" || *upstreamCA == "" || *certificate == "" || *key == "" {
		return errors.New("--upstream, --upstream-ca, --certificate and --key are all needed")
	}
	g, err := newGate(*upstream, *upstreamCA, *file)
	if err != nil {
		return err
	}
	outer, err := loopback(*listen)
	if err != nil {
		return err
	}
	inner, err := loopback("127.0.0.1:0")
	if err != nil {
		return err
	}
	quiet := log.New(io.Discard, "", 0)
	server := &http.Server{Handler: g, ErrorLog: quiet, ReadHeaderTimeout: 30 * time.Second}
	control := &http.Server{Handler: g.control(), ErrorLog: quiet, ReadHeaderTimeout: 30 * time.Second}
	failed := make(chan error, 2)
	go func() { failed <- server.ServeTLS(outer, *certificate, *key) }()
	go func() { failed <- control.Serve(inner) }()
	line, err := json.Marshal(map[string]string{"url": "https://" + outer.Addr().String(), "control": "http://" + inner.Addr().String()})
	if err != nil {
		return err
	}
	fmt.Println(string(line))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		_ = server.Close()
		_ = control.Close()
		return nil
	}
}

func loopback(address string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("%s is not a loopback address", host)
	}
	return net.Listen("tcp", address)
}

func newGate(upstream, authority, file string) (*gate, error) {
	target, err := url.Parse(upstream)
	if err != nil {
		return nil, err
	}
	pool, err := rootsFrom(authority)
	if err != nil {
		return nil, err
	}
	g := &gate{seen: []request{}}
	if file != "" {
		if g.file, err = os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
			return nil, err
		}
	}
	g.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
		// Every write of a watch goes out at once.
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
		Transport: &http.Transport{
			Proxy: nil, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 100,
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			if errors.Is(err, context.Canceled) {
				panic(http.ErrAbortHandler)
			}
			writeStatus(w, http.StatusBadGateway, "", "the gate does not reach the API server", 0)
		},
	}
	return g, nil
}

// match finds the first rule for a request and takes one of its times.
func (g *gate) match(r *http.Request) *rule {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, candidate := range g.rules {
		if candidate.Method != "" && candidate.Method != r.Method || !candidate.pattern.MatchString(r.URL.Path) {
			continue
		}
		if candidate.Times != nil {
			if candidate.left <= 0 {
				continue
			}
			candidate.left--
		}
		return candidate
	}
	return nil
}

func (g *gate) record(r *http.Request, status int) {
	entry := request{r.Method, r.URL.Path, r.URL.RawQuery, r.UserAgent(), status}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen = append(g.seen, entry)
	if line, err := json.Marshal(entry); err == nil && g.file != nil {
		_, _ = g.file.Write(append(line, '\n'))
	}
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The line is written with the answer's header, so that a watch shows while it lasts.
	observed := &observer{ResponseWriter: w, answered: func(status int) { g.record(r, status) }}
	fault := g.match(r)
	defer func() {
		if observed.status == 0 {
			g.record(r, 0)
		}
	}()
	if fault == nil {
		g.proxy.ServeHTTP(observed, r)
		return
	}
	if fault.Delay > 0 && !sleep(r.Context(), time.Duration(fault.Delay*float64(time.Second))) {
		return
	}
	if fault.After {
		// The API server does the work; only its answer is lost.
		lost := &discard{header: http.Header{}}
		g.proxy.ServeHTTP(lost, r)
	}
	switch {
	case fault.Reset:
		// Without a written header this closes the connection (HTTP/1) or resets the stream (HTTP/2).
		panic(http.ErrAbortHandler)
	case fault.Status != 0:
		writeStatus(observed, fault.Status, fault.Reason, fault.Message, fault.RetryAfter)
	case !fault.After:
		g.proxy.ServeHTTP(observed, r)
	default:
		panic(http.ErrAbortHandler)
	}
}

// reasons are the metav1.Status reasons of the codes that the API server answers.
var reasons = map[int]metav1.StatusReason{
	400: metav1.StatusReasonBadRequest, 401: metav1.StatusReasonUnauthorized, 403: metav1.StatusReasonForbidden,
	404: metav1.StatusReasonNotFound, 409: metav1.StatusReasonConflict, 410: metav1.StatusReasonExpired,
	422: metav1.StatusReasonInvalid, 429: metav1.StatusReasonTooManyRequests, 500: metav1.StatusReasonInternalError,
	503: metav1.StatusReasonServiceUnavailable, 504: metav1.StatusReasonTimeout,
}

// writeStatus answers a metav1.Status as the API server does.
func writeStatus(w http.ResponseWriter, code int, reason, message string, retryAfter int) {
	status := metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reasons[code], Message: message,
	}
	if reason != "" {
		status.Reason = metav1.StatusReason(reason)
	}
	if retryAfter > 0 {
		status.Details = &metav1.StatusDetails{RetryAfterSeconds: int32(retryAfter)}
		w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
	}
	body, err := json.Marshal(status)
	if err != nil {
		body = []byte("{}")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(body)
}

// control is the interface by which a test sets faults and reads what came through.
func (g *gate) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /fail", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		var added rule
		if err == nil {
			decoder := json.NewDecoder(bytes.NewReader(body))
			decoder.DisallowUnknownFields()
			err = decoder.Decode(&added)
		}
		if err == nil {
			added.pattern, err = regexp.Compile(added.Path)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if added.Times != nil {
			added.left = *added.Times
		}
		g.mu.Lock()
		g.rules = append(g.rules, &added)
		g.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("DELETE /fail", func(w http.ResponseWriter, _ *http.Request) {
		g.mu.Lock()
		g.rules = nil
		g.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /requests", func(w http.ResponseWriter, _ *http.Request) {
		g.mu.Lock()
		list := append([]request{}, g.seen...)
		g.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(list)
	})
	return mux
}

// observer remembers the status of an answer; Unwrap keeps flushing and hijacking possible.
type observer struct {
	http.ResponseWriter
	status   int
	answered func(status int)
}

func (o *observer) WriteHeader(code int) {
	// 1xx answers precede the one that counts, except 101, after which there is no other.
	if o.status == 0 && (code >= 200 || code == http.StatusSwitchingProtocols) {
		o.status = code
		o.answered(code)
	}
	o.ResponseWriter.WriteHeader(code)
}

func (o *observer) Write(data []byte) (int, error) {
	if o.status == 0 {
		o.status = http.StatusOK
		o.answered(o.status)
	}
	return o.ResponseWriter.Write(data)
}

func (o *observer) Unwrap() http.ResponseWriter { return o.ResponseWriter }

// discard takes an answer that nobody gets.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header            { return d.header }
func (d *discard) Write(data []byte) (int, error) { return len(data), nil }
func (d *discard) WriteHeader(int)                {}
