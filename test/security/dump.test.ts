import { randomBytes } from 'node:crypto';
import { createEmulator, type Emulator } from 'emulate';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { sessionCookie } from '#kernel/auth/actors.ts';
import { sealedColumns } from '#kernel/sealing/columns.ts';
import { rowId } from '#kernel/graphql/global-id.ts';
import { newId } from '#kernel/ids.ts';
import { Sealing } from '#kernel/sealing/sealing.ts';
import { invitationToken, invite, workspace } from '../support/actors.ts';
import { Browser } from '../support/browser.ts';
import { freePort } from '../support/counterparts.ts';
import { dump, formsOf, foundIn } from '../support/dump.ts';
import { keptLog } from '../support/http.ts';
import { clientId, clientSecret, startProvider, type TestProvider } from '../support/oidc.ts';
import { startTestServer, type TestServer } from '../support/server.ts';
import { account, mail, mutate, other, password, reset, tokenIn, verification } from '../domains/identity/support.ts';

/*
 * One database with every kind of secret that the server is given or makes, each made as people make it, and then
 * everything that is in it, or was said of it.
 */

/** Secrets by what they are. */
const secrets: Record<string, string> = {};

const githubSecret = `github-${randomBytes(16).toString('hex')}`;
const encryptionKey = randomBytes(32).toString('base64');
const { log, lines } = keptLog('trace');
let server: TestServer;
let github: Emulator;
let provider: TestProvider;
let marker: string;

const success = async (...asked: Parameters<typeof mutate>) => {
  const said = await mutate(...asked);
  if (!said.__typename.endsWith('Success')) throw new Error(JSON.stringify(said));
  return said;
};

beforeAll(async () => {
  const port = await freePort();
  const base = `http://127.0.0.1:${port}`;
  const app = { client_id: 'client', client_secret: githubSecret, name: 'Switchyard' };
  github = await createEmulator({
    service: 'github',
    port: await freePort(),
    seed: {
      github: {
        users: [{ login: 'grace', name: 'Grace', email: 'grace@github.example' }],
        oauth_apps: [{ ...app, redirect_uris: [`${base}/auth/github/callback`] }],
      },
    },
  });
  provider = await startProvider();
  server = await startTestServer(
    {
      PORT: String(port),
      SWITCHYARD_PROCESS_DRIVER: 'false',
      SWITCHYARD_ENCRYPTION_KEYS: `k1:${encryptionKey}`,
      GITHUB_CLIENT_ID: 'client',
      GITHUB_CLIENT_SECRET: githubSecret,
      GITHUB_URL: github.url,
      GITHUB_API_URL: github.url,
    },
    { log },
  );
  const keep = (what: string, secret: unknown): string => {
    if (typeof secret !== 'string' || secret.length < 12) throw new Error(`no ${what}: ${String(secret)}`);
    return (secrets[what] = secret);
  };
  keep("GitHub's client secret", githubSecret);
  keep('the encryption key', encryptionKey);

  const ada = await account(server, 'Ada of the dump');
  keep('a password', password);
  keep('a session token', ada.token);
  keep('the signature of a session token', ada.token.split('.')[2]);
  keep('a verification token', tokenIn(await mail(server, ada.email, verification)));
  keep('a renewed session token', (await success(server, 'refreshSession', null, ada, 'token'))['token']);

  const { id: workspaceId } = await workspace(server.url, ada);
  marker = 'Ada of the dump';
  const key = await success(
    server,
    'createApiKey',
    { workspaceId, name: 'CI', role: 'ADMIN' },
    ada,
    'key apiKey { id }',
  );
  keep('an API key', key['key']);
  keep('the secret part of an API key', String(key['key']).slice(11));
  const keyId = (key['apiKey'] as { id: string }).id;
  keep('a rotated API key', (await success(server, 'rotateApiKey', { id: keyId }, ada, 'key'))['key']);
  await invite(server.url, ada, workspaceId, 'bob@example.com', 'MEMBER');
  keep('an invitation token', await invitationToken(server.url, 'bob@example.com'));

  const sso = { workspaceId, name: 'Company', issuer: provider.issuer, clientId, clientSecret };
  await success(server, 'createSsoConnection', sso, ada);
  keep("an OpenID provider's client secret", clientSecret);

  const browser = new Browser();
  const begun = await browser.get(`${base}/auth/github?returnTo=/done`);
  const sent = new URL(begun.location ?? '').searchParams;
  const form = new URLSearchParams({ ...Object.fromEntries(sent), login: 'grace' });
  const back = await browser.get(`${github.url}/login/oauth/callback`, { method: 'POST', body: form });
  await browser.get(back.location ?? '');
  keep('the state of a sign-in', sent.get('state'));
  keep('the code of a sign-in', new URL(back.location ?? '').searchParams.get('code'));
  keep('the cookie of a session', browser.cookies(base)[sessionCookie]);
  const identity = await server.running.app.db.externalIdentity.findFirstOrThrow({ where: { provider: 'github' } });
  const context = `external_identity.token:${identity.id}`;
  keep("GitHub's token", await server.running.app.use(Sealing).openText(identity.token ?? '', context));

  const bob = await account(server, 'Bob');
  await success(server, 'requestPasswordReset', { email: bob.email });
  const resetToken = keep('a token of a password reset', tokenIn(await mail(server, bob.email, reset)));
  await success(server, 'resetPassword', { token: resetToken, newPassword: other });
  keep('another password', other);
  await success(server, 'requestPasswordReset', { email: ada.email });
  keep('an open token of a password reset', tokenIn(await mail(server, ada.email, reset)));
  const cy = await account(server, 'Cy');
  keep('the receipt of a deletion', (await success(server, 'deleteMyAccount', { password }, cy, 'receipt'))['receipt']);
  // Refused, and not to be kept either.
  secrets['a password that was wrong'] = 'a password that was wrong';
  await mutate(server, 'signIn', { email: bob.email, password: secrets['a password that was wrong'] });

  const variable = keep('an environment variable', randomBytes(16).toString('hex'));
  const application = { workspaceId, name: 'app', repositoryUrl: 'https://example.com/app.git' };
  const environment = { SECRET: variable };
  const made = await success(server, 'createApplication', { ...application, environment }, ada, 'application { id }');
  const ofPreviews = keep('an environment variable of previews', randomBytes(16).toString('hex'));
  await success(
    server,
    'setPreviewPolicy',
    {
      applicationId: (made['application'] as { id: string }).id,
      enabled: true,
      environment: { SECRET: ofPreviews },
    },
    ada,
  );

  const sealing = server.running.app.use(Sealing);
  const repositoryId = newId();
  const sealed = (what: string, column: string): Promise<string> =>
    sealing.seal(keep(what, randomBytes(16).toString('hex')), `connected_repository.${column}:${repositoryId}`);
  await server.running.app.db.connectedRepository.create({
    data: {
      id: repositoryId,
      workspaceId: rowId('Workspace', workspaceId),
      githubId: 1n,
      fullName: 'ada/app',
      cloneUrl: 'https://github.example/ada/app.git',
      urlKey: 'https://github.example/ada/app',
      isPrivate: true,
      access: 'TOKEN',
      token: await sealed('a token of a repository', 'token'),
      webhookSecret: await sealed('the secret of a webhook', 'webhook_secret'),
      formerSecret: await sealed('the former secret of a webhook', 'former_secret'),
    },
  });
});
afterAll(async () => {
  await server.stop();
  await provider.close();
  await github.close();
});

/** Kinds of secrets that are to be found there. */
const shown = (where: string): string[] =>
  Object.entries(secrets).flatMap(([what, secret]) => (foundIn(where, secret).length > 0 ? [what] : []));

describe('secrets at rest', () => {
  // Every table by COPY, as pg_dump does it: Debian has no pg_dump that reads a server of this version.
  test('none is in any table, in any form', async () => {
    const all = await dump(server.database.url);
    // What was looked through is all of it.
    expect(all).toContain(marker);
    for (const table of ['public.mail', 'public.external_identity', 'public.sso_connection', 'pgboss.job'])
      expect(all).toContain(`${table}\n`);
    expect(shown(all)).toEqual([]);
  });

  test('there was something to find: each column that is sealed has a value', async () => {
    for (const { table, column } of sealedColumns()) {
      const { rows } = await server.running.app.database.pool.query<{ many: number }>(
        `select count(*)::int as many from "${table}" where "${column}" is not null`,
      );
      expect([table, column, (rows[0]?.many ?? 0) > 0]).toEqual([table, column, true]);
    }
  });

  test('none is in what an event carries', async () => {
    const { rows } = await server.running.app.database.pool.query<{ text: string }>(
      'select to_jsonb(event)::text as text from event',
    );
    expect(rows.length).toBeGreaterThan(10);
    expect(shown(rows.map(({ text }) => text).join('\n'))).toEqual([]);
  });

  test('none is in the log, however much it says', () => {
    expect(lines.length).toBeGreaterThan(10);
    expect(shown(lines.map((line) => JSON.stringify(line)).join('\n'))).toEqual([]);
  });

  test('the search finds what is hidden in each of its forms', () => {
    const secret = 'a secret/of sufficient+length?';
    for (const form of [
      secret,
      encodeURIComponent(secret),
      Buffer.from(secret).toString('hex'),
      ...['', 'a', 'ab'].flatMap((before) =>
        (['base64', 'base64url'] as const).map((encoding) =>
          Buffer.from(`${before}${secret} and more`).toString(encoding),
        ),
      ),
    ])
      expect([form, foundIn(`x${form}y`, secret)]).toEqual([form, [secret]]);
    expect(foundIn('nothing of it', secret)).toEqual([]);
    expect(formsOf(secret).every((form) => form.length > 12)).toBe(true);
  });
});
