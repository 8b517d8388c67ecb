import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Provider, type ClientMetadata } from 'oidc-provider';

export interface Account {
  readonly sub: string;
  readonly email?: string;
  readonly email_verified?: boolean;
  readonly name?: string;
}

export interface TestProvider {
  readonly issuer: string;
  /** Who is signed in there. */
  account: Account;
  /** Answers instead of the provider, when it returns true. */
  intercept: ((req: IncomingMessage, res: ServerResponse) => boolean) | null;
  /** Where its client may have people sent back to. */
  readonly redirectUris: Set<string>;
  /** What was asked, as `GET /path`. */
  readonly asked: string[];
  close(): Promise<void>;
}

export const clientId = 'switchyard';
export const clientSecret = 'a secret of sufficient length, 0123456789';

/** A real OpenID provider on loopback, where whoever `account` says is signed in and agrees to everything. */
export async function startProvider(
  options: { client?: Partial<ClientMetadata>; userinfoOnly?: boolean } = {},
): Promise<TestProvider> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const made: TestProvider = {
    issuer,
    account: { sub: 'nobody' },
    intercept: null,
    redirectUris: new Set(),
    asked: [],
    close: () =>
      new Promise((resolve, reject) => {
        server.close((error) => (error ? reject(error) : resolve()));
        server.closeAllConnections();
      }),
  };
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: clientId,
        client_secret: clientSecret,
        redirect_uris: ['http://127.0.0.1:1/none'],
        grant_types: ['authorization_code'],
        response_types: ['code'],
        ...options.client,
      },
    ],
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'] },
    conformIdTokenClaims: options.userinfoOnly ?? false,
    pkce: { required: () => true },
    features: { devInteractions: { enabled: false } },
    cookies: { keys: ['a key for tests'] },
    interactions: { url: (_, { uid }) => `/interaction/${uid}` },
    ttl: { AccessToken: 60, AuthorizationCode: 60, IdToken: 60, Interaction: 60, Session: 1, Grant: 60 },
    findAccount: (_, sub) => ({ accountId: sub, claims: () => ({ ...made.account, sub }) }),
    loadExistingGrant: async (ctx) => {
      const { client, session } = ctx.oidc;
      const grant = new ctx.oidc.provider.Grant({
        ...(client ? { clientId: client.clientId } : {}),
        ...(session?.accountId ? { accountId: session.accountId } : {}),
      });
      grant.addOIDCScope('openid email profile');
      await grant.save();
      return grant;
    },
  });
  provider.Client.prototype.redirectUriAllowed = (uri) => made.redirectUris.has(uri);
  const callback = provider.callback();
  server.on('request', (req, res) => {
    made.asked.push(`${req.method} ${req.url?.split('?')[0]}`);
    if (made.intercept?.(req, res)) return;
    if (req.url?.startsWith('/interaction/')) {
      provider
        .interactionFinished(req, res, { login: { accountId: made.account.sub } }, { mergeWithLastSubmission: false })
        .catch((error: unknown) => res.writeHead(500).end(String(error)));
    } else void callback(req, res);
  });
  return made;
}
