import { createVerifier } from "fast-jwt";
import buildGetJwks from "get-jwks";
import { options, serve } from "./service.mjs";

const { issuer, audience, algorithms, cache, keys } = options;
const getJwks = buildGetJwks({ max: keys, ttl: cache * 1000, issuersWhitelist: [issuer] });
const verify = createVerifier({
  key: ({ header }) => getJwks.getPublicKey({ domain: issuer, alg: header.alg, kid: header.kid }),
  algorithms,
  allowedIss: issuer,
  allowedAud: audience,
});

serve(verify, (error) => {
  const cause = error.originalError ?? error;
  return error.code !== "FAST_JWT_KEY_FETCHING_ERROR" || cause.code === "JWK_NOT_FOUND";
});
