package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// rule answers requests wrongly: instead of passing them on, or after their work was done.
type rule struct {
	Method     string  `json:"method"`
	Path       string  `json:"path"`
	Status     int     `json:"status"`
	Message    string  `json:"message"`
	RetryAfter int     `json:"retry_after"`
	After      bool    `json:"after"`
	Reset      bool    `json:"reset"`
	Delay      float64 `json:"delay"`
	Times      *int    `json:"times"`

	pattern *regexp.Regexp
}

// seen is a request as the gate remembers it: never its headers or its body.
type seen struct {
	Method string `json:"method"`
	Path   string `json:"path"`
	Query  string `json:"query"`
	Status int    `json:"status"`
}

// gate is a TLS proxy in front of the API server. Bearer tokens pass; client certificates cannot.
type gate struct {
	mutex sync.Mutex
	rules []*rule
	seen  []seen
	proxy *httputil.ReverseProxy
}

func gateFlags(set *flag.FlagSet) func(context.Context) error {
	upstream := set.String("upstream", "", "address of the API server")
	authority := set.String("upstream-ca", "", "certificate of its authority")
	certificate := set.String("certificate", "", "certificate to serve with")
	key := set.String("key", "", "its key")
	return func(ctx context.Context) error {
		target, err := url.Parse(*upstream)
		if err != nil {
			return err
		}
		pem, err := os.ReadFile(*authority)
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		proxy := httputil.NewSingleHostReverseProxy(target)
		proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
		proxy.FlushInterval = -1 // watches are streams
		proxy.ErrorLog = log.New(os.Stderr, "", 0)
		g := &gate{proxy: proxy}
		return g.serve(ctx, *certificate, *key)
	}
}

func (g *gate) serve(ctx context.Context, certificate, key string) error {
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	back, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	control := http.NewServeMux()
	control.HandleFunc("POST /fail", g.fail)
	control.HandleFunc("DELETE /fail", g.heal)
	control.HandleFunc("GET /requests", g.requests)
	failed := make(chan error, 2)
	go func() { failed <- http.ServeTLS(front, g, certificate, key) }()
	go func() { failed <- http.Serve(back, control) }()
	fmt.Printf("{\"url\":\"https://%s\",\"control\":\"http://%s\"}\n", front.Addr(), back.Addr())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

func (g *gate) fail(w http.ResponseWriter, r *http.Request) {
	one := &rule{}
	if err := json.NewDecoder(r.Body).Decode(one); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	pattern, err := regexp.Compile("^(?:" + one.Path + ")$")
	if err != nil || (one.Status == 0 && !one.Reset && one.Delay == 0) {
		http.Error(w, "a fault needs a path and a status, a reset or a delay", http.StatusBadRequest)
		return
	}
	one.pattern = pattern
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.rules = append(g.rules, one)
	fmt.Fprint(w, "null")
}

func (g *gate) heal(w http.ResponseWriter, _ *http.Request) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.rules = nil
	fmt.Fprint(w, "null")
}

func (g *gate) requests(w http.ResponseWriter, _ *http.Request) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	_ = json.NewEncoder(w).Encode(g.seen)
}

// take finds the first rule for a request, and uses it up if it was for so many.
func (g *gate) take(r *http.Request) *rule {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	for index, one := range g.rules {
		if one.Method != r.Method || !one.pattern.MatchString(r.URL.Path) {
			continue
		}
		if one.Times != nil {
			*one.Times--
			if *one.Times <= 0 {
				g.rules = append(g.rules[:index:index], g.rules[index+1:]...)
			}
		}
		return one
	}
	return nil
}

func (g *gate) note(r *http.Request, status int) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.seen = append(g.seen, seen{Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Status: status})
}

// recorder keeps the status that passes through it.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets streams be flushed.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// discard is an answer that nobody sees.
type discard struct {
	header http.Header
	body   bytes.Buffer
}

func (d *discard) Header() http.Header               { return d.header }
func (d *discard) Write(content []byte) (int, error) { return d.body.Write(content) }
func (d *discard) WriteHeader(int)                   {}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	one := g.take(r)
	if one != nil {
		time.Sleep(time.Duration(one.Delay * float64(time.Second)))
		if one.After {
			g.proxy.ServeHTTP(&discard{header: http.Header{}}, r)
		}
		switch {
		case one.Reset:
			g.note(r, 0)
			panic(http.ErrAbortHandler)
		case one.Status != 0:
			g.note(r, one.Status)
			one.answer(w)
			return
		}
	}
	recorded := &recorder{ResponseWriter: w, status: http.StatusOK}
	g.proxy.ServeHTTP(recorded, r)
	g.note(r, recorded.status)
}

// answer is a metav1.Status, as the API server sends one.
func (one *rule) answer(w http.ResponseWriter) {
	reason := map[int]metav1.StatusReason{429: metav1.StatusReasonTooManyRequests, 409: metav1.StatusReasonConflict,
		500: metav1.StatusReasonInternalError, 503: metav1.StatusReasonServiceUnavailable}[one.Status]
	status := metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Message: one.Message, Reason: reason, Code: int32(one.Status)}
	if one.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(one.RetryAfter))
		status.Details = &metav1.StatusDetails{RetryAfterSeconds: int32(one.RetryAfter)}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(one.Status)
	_ = json.NewEncoder(w).Encode(status)
}
