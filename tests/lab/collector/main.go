// Command collector takes spans by the OpenTelemetry collector's own receivers, of OTLP (gRPC on :4317, HTTP on :4318) and of
// Zipkin (:9411), and prints each span as a line of JSON.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/open-telemetry/opentelemetry-collector-contrib/receiver/zipkinreceiver"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/receiver/receivertest"
)

// line is what is printed of a span.
type line struct {
	Receiver   string         `json:"receiver"`
	Resource   map[string]any `json:"resource"`
	Trace      string         `json:"trace"`
	Span       string         `json:"span"`
	Parent     string         `json:"parent"`
	Kind       string         `json:"kind"`
	Name       string         `json:"name"`
	Micros     int64          `json:"micros"`
	Status     string         `json:"status"`
	Message    string         `json:"message"`
	Attributes map[string]any `json:"attributes"`
}

var output sync.Mutex

func printer(name string) (consumer.Traces, error) {
	return consumer.NewTraces(func(_ context.Context, traces ptrace.Traces) error {
		output.Lock()
		defer output.Unlock()
		encoder := json.NewEncoder(os.Stdout)
		for _, resource := range traces.ResourceSpans().All() {
			for _, scope := range resource.ScopeSpans().All() {
				for _, span := range scope.Spans().All() {
					err := encoder.Encode(line{
						Receiver: name, Resource: resource.Resource().Attributes().AsRaw(),
						Trace: span.TraceID().String(), Span: span.SpanID().String(), Parent: span.ParentSpanID().String(),
						Kind: span.Kind().String(), Name: span.Name(),
						Micros: span.EndTimestamp().AsTime().Sub(span.StartTimestamp().AsTime()).Microseconds(),
						Status: span.Status().Code().String(), Message: span.Status().Message(),
						Attributes: span.Attributes().AsRaw(),
					})
					if err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
}

func start(name string, factory receiver.Factory, settings map[string]any) error {
	config := factory.CreateDefaultConfig()
	if err := confmap.NewFromStringMap(settings).Unmarshal(config); err != nil {
		return err
	}
	sink, err := printer(name)
	if err != nil {
		return err
	}
	one, err := factory.CreateTraces(context.Background(), receivertest.NewNopSettings(factory.Type()), config, sink)
	if err != nil {
		return err
	}
	return one.Start(context.Background(), componenttest.NewNopHost())
}

func run() error {
	protocols := map[string]any{
		"grpc": map[string]any{"endpoint": "[::]:4317"},
		"http": map[string]any{"endpoint": "[::]:4318"},
	}
	if err := start("otlp", otlpreceiver.NewFactory(), map[string]any{"protocols": protocols}); err != nil {
		return err
	}
	if err := start("zipkin", zipkinreceiver.NewFactory(), map[string]any{"endpoint": "[::]:9411"}); err != nil {
		return err
	}
	fmt.Println("listening")
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM, syscall.SIGINT)
	<-asked
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
