import { createRemoteJWKSet, errors, jwtVerify } from "jose";
import { options, serve } from "./service.mjs";

const { issuer, audience, algorithms, cache } = options;
const keys = createRemoteJWKSet(new URL(`${issuer}/.well-known/jwks.json`), {
  cacheMaxAge: cache * 1000,
  cooldownDuration: cache * 1000,
});

serve(
  (token) => jwtVerify(token, keys, { issuer, audience, algorithms, typ: "at+jwt" }),
  // What the library says when the set did not come is a JOSEError without a class of its own, or a time-out.
  (error) =>
    error instanceof errors.JOSEError &&
    error.code !== "ERR_JOSE_GENERIC" &&
    !(error instanceof errors.JWKSTimeout),
);
