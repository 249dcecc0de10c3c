// Command livenessprobe stands in for the sidecar of the same name, whose module no Go proxy serves: it takes the same
// flags, and answers /healthz by a Probe of the CSI driver.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func main() {
	address := flag.String("csi-address", "/run/csi/socket", "the driver's socket")
	timeout := flag.Duration("probe-timeout", time.Second, "of one Probe")
	endpoint := flag.String("http-endpoint", "", "HOST:PORT of /healthz")
	port := flag.String("health-port", "9808", "port of /healthz on every address, without --http-endpoint")
	flag.Int("v", 0, "taken, and without effect")
	flag.Parse()
	if *endpoint == "" {
		*endpoint = net.JoinHostPort("", *port)
	}

	connection, err := grpc.NewClient("unix:"+*address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	driver := csi.NewIdentityClient(connection)
	http.HandleFunc("/healthz", func(w http.ResponseWriter, request *http.Request) {
		ctx, cancel := context.WithTimeout(request.Context(), *timeout)
		defer cancel()
		answer, err := driver.Probe(ctx, &csi.ProbeRequest{})
		switch {
		case err != nil:
			log.Printf("the driver at %s failed its probe: %v", *address, err)
			http.Error(w, err.Error(), http.StatusInternalServerError)
		case answer.Ready != nil && !answer.Ready.Value:
			log.Printf("the driver at %s is not ready", *address)
			http.Error(w, "the driver answered, and is not ready", http.StatusInternalServerError)
		default:
			_, _ = w.Write([]byte("ok"))
		}
	})
	log.Fatal(http.ListenAndServe(*endpoint, nil))
}
