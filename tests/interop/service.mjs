// A service with one verifier: 200 for a bearer token that it accepts, 401 for one that it refuses, and 503
// where it could not ask for keys, which says nothing about the token.
import { createServer } from "node:http";

// issuer, audience, algorithms; cache: seconds, the longest that keys are kept; keys: how many there may be.
export const options = JSON.parse(process.argv[2]);

// Listens on a port of its own choice, which it prints, until its standard input ends: it survives no test.
export function listen(listener) {
  const server = createServer(listener).listen(0, "127.0.0.1", () => console.log(server.address().port));
  process.stdin.on("end", () => process.exit(0)).resume();
}

export function answer(response, status, reason = "") {
  response.writeHead(status, { "content-type": "text/plain" }).end(reason);
}

// `verify` gives or promises whatever it likes, or throws; `isRefusal` says whether that error is about the token.
export function serve(verify, isRefusal) {
  listen(async (request, response) => {
    try {
      await verify(request.headers.authorization.slice("Bearer ".length));
      answer(response, 200);
    } catch (error) {
      answer(response, isRefusal(error) ? 401 : 503, `${error.code ?? error.name}: ${error.message}`);
    }
  });
}
