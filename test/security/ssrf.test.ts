import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { getNamedType, isInputObjectType, isObjectType, isScalarType } from 'graphql';
import { exportJWK, generateKeyPair, SignJWT } from 'jose';
import { buildConnector } from 'undici';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createLogger } from '#kernel/log.ts';
import { createOutboundPolicy, type HostLookup } from '#kernel/outbound.ts';
import { connectOutside } from '../../src/domains/identity/service/outside.ts';
import { createGit, GitRefused, RepositoryUnreachable } from '../../src/integrations/git/index.ts';
import { ProviderUnusable } from '../../src/integrations/oidc/index.ts';
import { schema } from '../../src/schema.ts';

/*
 * No URL that somebody gives leads the server to an address that is not public. The resolver and what opens connections
 * are injected: names resolve to what is said here, and each connection that is asked for is noted with its address.
 * Real sockets go to one server on loopback, which stands for the whole Internet.
 */

const publicAddress = '93.184.215.14';

/** What names resolve to, one answer after the other; the last one stays. */
const names: Readonly<Record<string, readonly string[][]>> = {
  'provider.example': [[publicAddress]],
  'loopback.example': [['127.0.0.1']],
  'loopback6.example': [['::1']],
  'private.example': [['10.0.0.1']],
  'metadata.example': [['169.254.169.254']],
  'metadata.example.': [['169.254.169.254']],
  'shared.example': [['100.64.0.1']],
  'local6.example': [['fd00::1']],
  'link6.example': [['fe80::1%eth0']],
  'mapped.example': [['::ffff:10.0.0.1']],
  'translated.example': [['64:ff9b::a00:1']],
  '6to4.example': [['2002:a00:1::1']],
  'mixed.example': [[publicAddress, '10.0.0.1']],
  'mixed6.example': [['::1', publicAddress]],
  localhost: [['127.0.0.1', '::1']],
  'localhost.': [['127.0.0.1']],
};

/** Hosts that are not public, as a URL can say them. */
const hostile = [
  '127.0.0.1', '127.1', '127.0.0.1.', '2130706433', '0x7f000001', '0x7f.0.0.1', '017700000001', '0177.0.0.1',
  '0.0.0.0', '0', '10.0.0.1', '172.16.0.1', '192.168.0.1', '169.254.169.254', '100.64.0.1', '192.0.0.8', '192.0.2.1',
  '198.18.0.1', '224.0.0.1', '239.255.255.255', '240.0.0.1', '255.255.255.255', '[::]', '[::1]', '[::127.0.0.1]',
  '[::ffff:127.0.0.1]', '[::ffff:a9fe:a9fe]', '[::ffff:0:7f00:1]', '[64:ff9b::7f00:1]', '[64:ff9b:1::7f00:1]',
  '[2002:7f00:1::1]', '[2001::1]', '[fe80::1]', '[fec0::1]', '[fd00::1]', '[ff02::1]', '①②⑦.⓪.⓪.①',
  // Tricks with the part before the host: what is asked for is 127.0.0.1.
  'provider.example@127.0.0.1', 'provider.example:443@127.0.0.1',
  ...Object.keys(names).filter((name) => name !== 'provider.example'),
]; // prettier-ignore

/** A world in which `rebinding.example` is public for so many look-ups, and at loopback from then on. */
function world(publicLookups = 0) {
  const asked: string[] = [];
  const connected: string[] = [];
  const lookup: HostLookup = async (host) => {
    asked.push(host);
    const times = asked.filter((one) => one === host).length;
    if (host === 'rebinding.example') return [times <= publicLookups ? publicAddress : '127.0.0.1'];
    const answers = names[host];
    const answer = answers?.[Math.min(times, answers.length) - 1];
    if (!answer) throw new Error(`ENOTFOUND ${host}`);
    return answer;
  };
  const connect = buildConnector({ timeout: 2000 });
  const connector: buildConnector.connector = (options, callback) => {
    connected.push(options.hostname);
    if (options.hostname !== publicAddress) return callback(new Error('not public'), null);
    // In plain text: what is asked here is where it goes.
    return connect({ ...options, protocol: 'http:', hostname: '127.0.0.1', port: String(port) }, callback);
  };
  return { asked, connected, lookup, connector };
}

let internet: Server;
let port: number;
let answer: (req: IncomingMessage, res: ServerResponse) => void;
let keys: CryptoKeyPair;
const folders: string[] = [];

beforeAll(async () => {
  internet = createServer((req, res) => answer(req, res));
  await new Promise<void>((resolve) => internet.listen(0, '127.0.0.1', resolve));
  port = (internet.address() as AddressInfo).port;
  keys = await generateKeyPair('ES256');
});
afterAll(async () => {
  internet.closeAllConnections();
  internet.close();
  for (const folder of folders) await rm(folder, { recursive: true, force: true });
});

describe('every argument that takes an address is known', () => {
  /** What becomes of it. A new one has to be put here, and into a walk below. */
  const known: Readonly<Record<string, string>> = {
    'CreateApplicationInput.repositoryUrl': 'git fetches from it: below',
    'UpdateApplicationInput.repositoryUrl': 'the same',
    'CreateSsoConnectionInput.issuer': 'OpenID Connect discovery begins there: below',
    'AddSsoDomainInput.domain': 'its TXT records are asked for at the resolver; nothing connects to it',
  };
  const speaksOf = /\b(urls?|uris?|https?|issuer|endpoint|webhook|domain|host ?name|remote|registry|image|proxy)\b/i;
  const words = (name: string): string => name.replaceAll(/([a-z0-9])([A-Z])/g, '$1 $2');

  test('in the whole schema', () => {
    const found = Object.values(schema.getTypeMap()).flatMap((type) => {
      const given = isInputObjectType(type)
        ? Object.values(type.getFields()).map((field) => ({ ...field, place: `${type.name}.${field.name}` }))
        : isObjectType(type) && !type.name.startsWith('__')
          ? Object.values(type.getFields()).flatMap((field) =>
              field.args.map((arg) => ({ ...arg, place: `${type.name}.${field.name}(${arg.name})` })),
            )
          : [];
      return given
        .filter(({ type: of }) => {
          const named = getNamedType(of);
          return isScalarType(named) && !['ID', 'Int', 'Float', 'Boolean', 'BigInt', 'DateTime'].includes(named.name);
        })
        .filter(({ name, description }) => speaksOf.test(`${words(name)} ${description ?? ''}`))
        .map(({ place }) => place);
    });
    expect(found.toSorted()).toEqual(Object.keys(known).toSorted());
  });
});

describe('OpenID Connect', () => {
  const issuer = 'https://provider.example';
  const client = (of = issuer) => ({ issuer: of, clientId: 'switchyard', clientSecret: 'a secret' });
  const endpoints = {
    authorization_endpoint: `${issuer}/authorize`,
    token_endpoint: `${issuer}/token`,
    jwks_uri: `${issuer}/jwks`,
    userinfo_endpoint: `${issuer}/userinfo`,
  };
  type Endpoint = keyof typeof endpoints;
  const json = (res: ServerResponse, body: unknown, status = 200) =>
    void res.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));

  /** A provider, but for what is said otherwise; `asked` are the paths that it was asked for. */
  function provider(
    document: Partial<Record<Endpoint, string>> = {},
    instead: (path: string, res: ServerResponse) => boolean = () => false,
    of = issuer,
  ) {
    const asked: string[] = [];
    let nonce = '';
    answer = (req, res) => {
      const at = (req.url ?? '').split('?')[0] ?? '';
      asked.push(at);
      if (instead(at, res)) return;
      if (at === '/.well-known/openid-configuration') json(res, { ...metadata, issuer: of, ...endpoints, ...document });
      else if (at === '/token') {
        void (async () => {
          const token = await new SignJWT({ nonce })
            .setProtectedHeader({ alg: 'ES256', kid: 'k' })
            .setIssuer(of)
            .setAudience('switchyard')
            .setSubject('ada')
            .setIssuedAt()
            .setExpirationTime('1m')
            .sign(keys.privateKey);
          json(res, { access_token: 'x', token_type: 'Bearer', expires_in: 60, id_token: token });
        })();
      } else if (at === '/jwks') {
        void exportJWK(keys.publicKey).then((jwk) => json(res, { keys: [{ ...jwk, kid: 'k', alg: 'ES256' }] }));
      } else if (at === '/userinfo') json(res, { sub: 'ada', email: 'ada@example.com' });
      else json(res, {}, 404);
    };
    return { asked, setNonce: (value: string) => (nonce = value) };
  }
  const metadata = {
    response_types_supported: ['code'],
    subject_types_supported: ['public'],
    id_token_signing_alg_values_supported: ['ES256'],
    code_challenge_methods_supported: ['S256'],
  };

  /** A whole sign-in, from discovery to the person: what came out, and which addresses were asked for. */
  async function signIn(of: ReturnType<typeof provider>, at = world(), from = issuer) {
    const { oidc } = connectOutside({
      log: createLogger('silent'),
      allowLoopback: false,
      github: null,
      issuers: [],
      baseUrl: () => 'https://switchyard.example',
      lookup: at.lookup,
      connector: at.connector,
    });
    const back = 'https://switchyard.example/callback';
    const signal = AbortSignal.timeout(10_000);
    const outcome = await (async () => {
      await oidc.check(client(from), signal);
      const begun = await oidc.begin(client(from), back, signal);
      of.setNonce(begun.nonce);
      const returned = new URL(`${back}?code=c&state=${begun.state}`);
      return oidc.finish(client(from), returned, begun, signal);
    })().catch((error: unknown) => error);
    return { outcome, connected: at.connected, asked: at.asked };
  }

  test('with a provider that is public, everything is asked for, so that nothing below is refused for another reason', async () => {
    const good = provider();
    const { outcome, connected } = await signIn(good);
    expect(outcome).toMatchObject({ subject: 'ada', email: 'ada@example.com' });
    expect(new Set(good.asked)).toEqual(new Set(['/.well-known/openid-configuration', '/token', '/jwks', '/userinfo']));
    expect(new Set(connected)).toEqual(new Set([publicAddress]));
  });

  test.each(hostile)('an issuer at %s is asked for nothing', async (host) => {
    const { outcome, connected } = await signIn(provider(), world(), `https://${host}`);
    expect(outcome).toBeInstanceOf(ProviderUnusable);
    expect(connected).toEqual([]);
  });

  test.each(['token_endpoint', 'jwks_uri', 'userinfo_endpoint'] as const)(
    'a public provider whose %s is elsewhere does not lead there',
    async (endpoint) => {
      const problems: unknown[] = [];
      for (const url of [
        ...hostile.map((host) => `https://${host}/x`),
        'http://127.0.0.1/x',
        'http://loopback.example/x',
      ]) {
        const { outcome, connected } = await signIn(provider({ [endpoint]: url }));
        // The policy has said so or, without TLS, the library before it: never an answer, never a connection.
        const isRefused = outcome instanceof (url.startsWith('https:') ? ProviderUnusable : Error);
        if (!isRefused) problems.push({ url, outcome });
        if (connected.some((address) => address !== publicAddress)) problems.push({ url, connected });
      }
      expect(problems).toEqual([]);
    },
  );

  test('where browsers are sent to, the server does not go', async () => {
    const elsewhere = provider({ authorization_endpoint: 'https://127.0.0.1/authorize' });
    expect(new Set((await signIn(elsewhere)).connected)).toEqual(new Set([publicAddress]));
    expect(elsewhere.asked).not.toContain('/authorize');
  });

  test.each(['/.well-known/openid-configuration', '/token', '/jwks', '/userinfo'])(
    'no redirect of %s is followed',
    async (from) => {
      const problems: unknown[] = [];
      for (const [status, to] of [
        [301, 'https://127.0.0.1/x'],
        [302, 'https://provider.example/x'],
        [303, 'http://169.254.169.254/latest/meta-data/'],
        [307, 'https://[::1]/x'],
        [308, '//10.0.0.1/x'],
      ] as const) {
        const redirecting = provider({}, (at, res) => {
          if (at !== from) return false;
          res.writeHead(status, { location: to }).end();
          return true;
        });
        const { outcome, connected } = await signIn(redirecting);
        if (!(outcome instanceof ProviderUnusable)) problems.push({ to, outcome });
        if (connected.some((address) => address !== publicAddress)) problems.push({ to, connected });
        if (redirecting.asked.includes('/x')) problems.push({ to, asked: redirecting.asked });
      }
      expect(problems).toEqual([]);
    },
  );

  test('a name that changes between two look-ups leads nowhere else, whenever it changes', async () => {
    const from = 'https://rebinding.example';
    const document = Object.fromEntries(Object.keys(endpoints).map((name) => [name, endpoints[name as Endpoint].replace(issuer, from)])); // prettier-ignore
    // Discovery, token, keys, person: from the fifth look-up on it may change, nobody asks any more.
    for (let lookups = 0; lookups <= 4; lookups++) {
      const at = world(lookups);
      const { outcome } = await signIn(
        provider(document, () => false, from),
        at,
        from,
      );
      expect([lookups, outcome instanceof ProviderUnusable]).toEqual([lookups, lookups < 4]);
      // One look-up for each connection, and each connection to what it said.
      expect(at.connected).toEqual(Array(lookups).fill(publicAddress));
      expect(at.asked).toHaveLength(Math.min(lookups + 1, 4));
    }
  });
});

describe('git', () => {
  /** Git with a resolver; instead of git runs a program that notes how it was called. */
  async function gitOf(lookup: HostLookup) {
    const folder = await mkdtemp(path.join(tmpdir(), 'switchyard-ssrf-'));
    folders.push(folder);
    await chmod(folder, 0o755);
    const said = path.join(folder, 'said');
    const gitPath = path.join(folder, 'git');
    await writeFile(
      gitPath,
      `#!/bin/sh\n[ "$1" = version ] && echo 'git version 2.50.0' && exit\n{ echo "$@"; env; } >> '${said}'\nexit 128\n`,
      { mode: 0o755 },
    );
    const git = await createGit({
      gitPath,
      path: '/usr/local/bin:/usr/bin:/bin',
      protocols: ['https', 'http', 'ssh'],
      outbound: createOutboundPolicy({ allowLoopback: false, lookup }),
      homeDir: path.join(folder, 'home'),
      log: createLogger('silent'),
    });
    let started = 0;
    return {
      started: () => started,
      said: () => readFile(said, 'utf8').catch(() => ''),
      fetch: (repositoryUrl: string): Promise<unknown> =>
        git
          .fetchCommit({
            repositoryUrl,
            ref: 'main',
            intoDir: folder,
            signal: AbortSignal.timeout(20_000),
            timeoutMs: 20_000,
            onOutput: () => undefined,
            beforeStart: async () => void started++,
          })
          .catch((error: unknown) => error),
    };
  }

  test('is not started for a repository that is not public', async () => {
    const at = world();
    const git = await gitOf(at.lookup);
    const problems: unknown[] = [];
    for (const host of hostile) {
      for (const scheme of ['https', 'http', 'ssh']) {
        const outcome = await git.fetch(`${scheme}://${host}/app.git`);
        if (!(outcome instanceof GitRefused || outcome instanceof RepositoryUnreachable))
          problems.push({ host, scheme, outcome });
      }
    }
    expect(problems).toEqual([]);
    expect([git.started(), await git.said()]).toEqual([0, '']);
  });

  test('is given the address that was checked, and resolves nothing itself', async () => {
    // Public once: a second look-up, of git or of anybody, would say loopback.
    const at = world(1);
    const git = await gitOf(at.lookup);
    expect(await git.fetch('https://rebinding.example/app.git')).toBeInstanceOf(RepositoryUnreachable);
    const said = await git.said();
    expect(said).toContain('GIT_CONFIG_KEY_0=http.curloptResolve');
    expect(said).toContain(`GIT_CONFIG_VALUE_0=rebinding.example:443:${publicAddress}`);
    expect(at.asked).toEqual(['rebinding.example']);
    const again = git.started();
    expect(await git.fetch('https://rebinding.example/app.git')).toBeInstanceOf(GitRefused);
    expect(git.started()).toBe(again);
  });

  test('is given it for SSH, too', async () => {
    const at = world(1);
    const git = await gitOf(at.lookup);
    expect(await git.fetch('ssh://git@rebinding.example/app.git')).toBeInstanceOf(RepositoryUnreachable);
    expect(await git.said()).toContain(`HostName=${publicAddress}`);
    expect(at.asked).toEqual(['rebinding.example']);
  });
});
