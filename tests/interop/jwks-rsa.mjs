import jwt from "jsonwebtoken";
import jwksClient from "jwks-rsa";
import { options, serve } from "./service.mjs";

const { issuer, audience, algorithms, cache, keys, perMinute } = options;
const client = jwksClient({
  jwksUri: `${issuer}/.well-known/jwks.json`,
  cache: true,
  cacheMaxAge: cache * 1000,
  cacheMaxEntries: keys,
  rateLimit: true,
  jwksRequestsPerMinute: perMinute,
});

async function verify(token) {
  const key = await client.getSigningKey(jwt.decode(token, { complete: true }).header.kid);
  return jwt.verify(token, key.getPublicKey(), { issuer, audience, algorithms });
}

// To have asked too often is a refusal: the bearer of a valid token is turned away.
serve(verify, (error) => !error.isEndpointUnavailable);
