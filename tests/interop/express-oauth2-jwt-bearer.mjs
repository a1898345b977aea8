import express from "express";
import { auth } from "express-oauth2-jwt-bearer";
import { answer, listen, options } from "./service.mjs";

const { issuer, audience, algorithms, cache } = options;
const app = express();
app.use(
  auth({
    issuerBaseURL: issuer,
    audience,
    // There can be one alone; without, the discovery document says which ones there are.
    tokenSigningAlg: algorithms.length === 1 ? algorithms[0] : undefined,
    strict: true,
    cacheMaxAge: cache * 1000,
    cooldownDuration: cache * 1000,
  }),
);
app.use((request, response) => answer(response, 200));

// The library answers 401 for everything; only the words tell a token from a set that did not come.
const unasked = /^(Failed to|Expected 200 OK|request timed out|socket hang up|aborted|connect |read |write )/;
app.use((error, request, response, next) => {
  answer(response, unasked.test(error.message) ? 503 : error.statusCode, `${error.name}: ${error.message}`);
});

listen(app);
