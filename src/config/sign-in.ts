import { z } from 'zod';
import { optional, parseUrl, secretText, setting, webUrl } from './kit.ts';

/** @see https://www.rfc-editor.org/rfc/rfc7519#section-4.1.1 */
const Issuer = z.strictObject({
  issuer: z.string().min(1).max(290),
  jwksUrl: webUrl.optional(),
  clientIds: z.array(z.string().min(1)).min(1, 'must have one at least'),
  use: z
    .array(z.enum(['id', 'access']))
    .min(1)
    .default(['id', 'access']),
  provision: z.boolean().default(false),
});

const jwtIssuers = z.string().transform((text, context): readonly JwtIssuer[] => {
  let given: unknown;
  try {
    given = JSON.parse(text);
  } catch {
    context.addIssue('must be JSON: a list of {"issuer", "jwksUrl", "clientIds", "use", "provision"}');
    return z.NEVER;
  }
  const read = z.array(Issuer).safeParse(given);
  if (!read.success) {
    const [issue] = read.error.issues;
    context.addIssue(`${issue?.path.join('.') || 'the list'}: ${issue?.message ?? 'is wrong'}`);
    return z.NEVER;
  }
  const issuers = read.data.map((one) => ({
    ...one,
    jwksUrl: one.jwksUrl ?? `${one.issuer.replace(/\/$/, '')}/.well-known/jwks.json`,
  }));
  if (!issuers.every(({ jwksUrl }) => /^https?:$/.test(parseUrl(jwksUrl)?.protocol ?? ''))) {
    context.addIssue('an issuer that is no URL needs a jwksUrl');
  } else if (new Set(issuers.map(({ issuer }) => issuer)).size < issuers.length) {
    context.addIssue('an issuer stands there twice');
  } else return issuers;
  return z.NEVER;
});

/** An issuer whose JWTs are taken. */
export interface JwtIssuer {
  /** Claim `iss`. */
  readonly issuer: string;
  readonly jwksUrl: string;
  readonly clientIds: readonly string[];
  readonly use: readonly ('id' | 'access')[];
  /** Whether people without an account get one. */
  readonly provision: boolean;
}

export const signIn = {
  GITHUB_CLIENT_ID: optional({
    group: 'Sign-in',
    description:
      'Client id of an OAuth app at GitHub, whose callback URL is PUBLIC_URL/auth/github/callback. Unset: nobody signs in with GitHub.',
    example: 'Ov23liAbCdEfGhIjKlMn',
    schema: z.string().max(200),
  }),
  GITHUB_CLIENT_SECRET: optional({
    group: 'Sign-in',
    description: 'Client secret of that OAuth app.',
    secret: true,
    example: 'as GitHub shows it',
    schema: secretText(8),
  }),
  GITHUB_URL: setting({
    group: 'Sign-in',
    description: 'Where GitHub is; another address for GitHub Enterprise Server, which may be in a private network.',
    default: 'https://github.com',
    example: 'https://github.example.com',
    schema: webUrl,
  }),
  GITHUB_API_URL: setting({
    group: 'Sign-in',
    description: 'Where the REST API of that GitHub is.',
    default: 'https://api.github.com',
    example: 'https://github.example.com/api/v3',
    schema: webUrl,
  }),
  SWITCHYARD_JWT_ISSUERS: optional({
    group: 'Sign-in',
    description:
      'Issuers whose JWTs are taken as bearer tokens: a JSON list of objects with issuer (claim iss, exactly), jwksUrl (default: issuer/.well-known/jwks.json), clientIds (allowed audiences), use (id, access; default both), provision (whether an ID token makes an account; default false).',
    example:
      '[{"issuer":"https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Ab12","clientIds":["4ab"],"provision":true}]',
    schema: jwtIssuers,
  }),
} as const;
