import { generateKeyPairSync } from 'node:crypto';
import { inspect } from 'node:util';
import { describe, expect, it } from 'vitest';
import { ConfigError, loadConfig, Secret, settings, type Machine } from '../src/config.ts';

const linux: Machine = { platform: 'linux', uid: 1000, home: '/home/u' };
const load = (env: NodeJS.ProcessEnv = {}, machine = linux) => loadConfig(env, machine);
const production = {
  NODE_ENV: 'production',
  SESSION_SECRET: 'session-'.repeat(5),
  STORAGE_SECRET: 'storage-'.repeat(5),
  PUBLIC_URL: 'https://switchyard.example.com/',
  SWITCHYARD_PROCESS_DRIVER: 'false',
  SWITCHYARD_ENCRYPTION_KEYS: `k1:${Buffer.alloc(32, 1).toString('base64')}`,
};

function problemsOf(env: NodeJS.ProcessEnv): readonly string[] {
  try {
    load(env);
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
  return [];
}

describe('loadConfig', () => {
  it('has a default for everything outside production', () => {
    const config = load();
    expect(config).toMatchObject({
      mode: 'development',
      roles: { api: true, worker: true },
      http: { host: '127.0.0.1', port: 4000, publicUrl: 'http://127.0.0.1:4000', corsOrigins: [], trustProxy: 0 },
      session: { secret: undefined, ttlS: 43_200 },
      database: { url: undefined, directUrl: undefined, poolMax: 10 },
      storage: { stateDir: '/home/u/.local/state/switchyard', maxUploadBytes: 2 ** 30 },
      graphql: { graphiql: true, introspection: true, persistedOnly: false },
      limits: { depth: 12, aliases: 30, cost: 5000, tokens: 2000, batch: 10 },
      driver: { process: true, appUserBase: 61_184, addressPorts: { from: 20_000, to: 29_999 } },
      outbound: { gitProtocols: ['https', 'http', 'file'], allowLoopback: true },
      telemetry: { metricsOpen: true },
    });
  });

  it('is strict in production', () => {
    expect(load(production)).toMatchObject({
      production: true,
      http: { publicUrl: 'https://switchyard.example.com' },
      graphql: { graphiql: false, introspection: false },
      driver: { process: false },
      outbound: { gitProtocols: ['https'], allowLoopback: false },
      telemetry: { metricsOpen: false },
    });
    expect(load({ ...production, SWITCHYARD_ALLOW_LOOPBACK: 'true' }).outbound.allowLoopback).toBe(true);
    expect(problemsOf({ NODE_ENV: 'production', HOST: '0.0.0.0', PUBLIC_URL: 'http://sy.example.com' })).toEqual([
      'SESSION_SECRET: must be set in production',
      'STORAGE_SECRET: must be set in production',
      'SWITCHYARD_PROCESS_DRIVER: must be set in production',
      'PUBLIC_URL: must start with https:// in production, unless it is on loopback',
      'SWITCHYARD_ENCRYPTION_KEYS: or SWITCHYARD_ENCRYPTION_KEYS_FILE or SWITCHYARD_ENCRYPTION_KMS_KEYS must be set in production',
    ]);
    for (const host of ['localhost:4000', '127.0.0.1', '[::1]:1']) {
      expect(problemsOf({ ...production, PUBLIC_URL: `http://${host}` })).toEqual([]);
    }
    expect(problemsOf({ ...production, PUBLIC_URL: 'http://127.0.0.1.example.com' })).toHaveLength(1);
  });

  it('takes encryption keys from one place, and checks them', () => {
    const { SWITCHYARD_ENCRYPTION_KEYS: keys, ...rest } = production;
    expect(load(production).encryption.keys?.reveal()).toBe(keys);
    const file = { SWITCHYARD_ENCRYPTION_KEYS_FILE: '/run/secrets/keys' };
    expect(load({ ...rest, ...file }).encryption).toEqual({ keys: undefined, keysFile: '/run/secrets/keys' });
    const arn = 'arn:aws:kms:eu-central-1:111122223333:key/1234';
    expect(load({ ...rest, SWITCHYARD_ENCRYPTION_KMS_KEYS: `k1=${arn}` }).encryption.kmsKeys).toEqual([
      { kid: 'k1', arn, region: 'eu-central-1' },
    ]);
    expect(problemsOf({ ...rest, SWITCHYARD_ENCRYPTION_KMS_KEYS: 'k1=alias/x' })).toHaveLength(1);
    expect(problemsOf({ ...production, SWITCHYARD_KMS_ENDPOINT: 'https://kms.example.com' })).toHaveLength(1);
    expect(problemsOf({ ...production, ...file })).toHaveLength(1);
    for (const wrong of [
      'hunter2hunter2',
      'k1:hunter2hunter2',
      `${keys},k1:${Buffer.alloc(32, 2).toString('base64')}`,
    ]) {
      const problems = problemsOf({ ...rest, SWITCHYARD_ENCRYPTION_KEYS: wrong });
      expect(problems).toHaveLength(1);
      expect(problems[0]).toMatch(/^SWITCHYARD_ENCRYPTION_KEYS: key \d /);
      expect(problems[0]).not.toMatch(/hunter2|AgICAg/);
    }
  });

  it('takes issuers of JWTs, and says what is wrong with them', () => {
    const issuers = (value: unknown) => ({ SWITCHYARD_JWT_ISSUERS: JSON.stringify(value) });
    const issuer = 'https://cognito-idp.eu-west-1.amazonaws.com/pool';
    expect(load(issuers([{ issuer, clientIds: ['a'] }])).signIn.jwtIssuers).toEqual([
      {
        issuer,
        clientIds: ['a'],
        jwksUrl: `${issuer}/.well-known/jwks.json`,
        use: ['id', 'access'],
        provision: false,
      },
    ]);
    expect(load({}).signIn.jwtIssuers).toEqual([]);
    for (const [wrong, words] of [
      [{}, 'array'],
      [[{ issuer }], '0.clientIds'],
      [[{ issuer, clientIds: [] }], '0.clientIds'],
      [[{ issuer, clientIds: ['a'], use: ['refresh'] }], '0.use'],
      [[{ issuer, clientIds: ['a'], audience: 'b' }], 'audience'],
      [[{ issuer: 'accounts', clientIds: ['a'] }], 'needs a jwksUrl'],
      [[{ issuer, jwksUrl: 'file:///etc/passwd', clientIds: ['a'] }], '0.jwksUrl'],
      [[1, 2].map(() => ({ issuer, clientIds: ['a'] })), 'twice'],
    ] as const) {
      const problems = problemsOf(issuers(wrong));
      expect(problems).toHaveLength(1);
      expect(problems[0]).toMatch(/^SWITCHYARD_JWT_ISSUERS: /);
      expect(problems[0]).toContain(words);
    }
    expect(problemsOf({ SWITCHYARD_JWT_ISSUERS: '[' })[0]).toContain('must be JSON');
  });

  it('takes GitHub with both halves of its client', () => {
    const github = { GITHUB_CLIENT_ID: 'Iv1.abc', GITHUB_CLIENT_SECRET: 'hunter2hunter2' };
    expect(load(github).signIn.github).toMatchObject({ clientId: 'Iv1.abc', url: 'https://github.com' });
    expect(load(github).signIn.github?.clientSecret.reveal()).toBe('hunter2hunter2');
    expect(load({}).signIn.github).toBeUndefined();
    expect(problemsOf({ GITHUB_CLIENT_ID: 'a' })).toEqual(['GITHUB_CLIENT_SECRET: must be set with GITHUB_CLIENT_ID']);
    expect(problemsOf({ GITHUB_CLIENT_SECRET: 'hunter2hunter2' })).toEqual([
      'GITHUB_CLIENT_ID: must be set with GITHUB_CLIENT_SECRET',
    ]);
  });

  it('takes a bucket for files, whole or not at all', () => {
    const s3 = { SWITCHYARD_BLOBS: 's3', SWITCHYARD_S3_BUCKET: 'files' };
    const keys = { SWITCHYARD_S3_ACCESS_KEY_ID: 'AKIA', SWITCHYARD_S3_SECRET_ACCESS_KEY: 'hunter2hunter2' };
    expect(load({}).storage.s3).toBeNull();
    expect(load(s3).storage.s3).toEqual({
      bucket: 'files',
      prefix: undefined,
      region: 'us-east-1',
      endpoint: undefined,
      pathStyle: false,
      credentials: undefined,
      redirects: true,
    });
    const whole = load({ ...s3, ...keys, SWITCHYARD_S3_DOWNLOADS: 'through' }).storage.s3;
    expect([whole?.credentials?.secretAccessKey.reveal(), whole?.redirects]).toEqual(['hunter2hunter2', false]);
    expect(JSON.stringify(whole)).not.toContain('hunter2');
    expect(problemsOf({ SWITCHYARD_BLOBS: 's3' })).toEqual([
      'SWITCHYARD_S3_BUCKET: must be set for SWITCHYARD_BLOBS=s3',
    ]);
    expect(problemsOf({ SWITCHYARD_S3_BUCKET: 'files', SWITCHYARD_S3_ENDPOINT: 'http://s3' })).toEqual([
      'SWITCHYARD_BLOBS: must be s3 for SWITCHYARD_S3_BUCKET, SWITCHYARD_S3_ENDPOINT',
    ]);
    expect(problemsOf({ ...s3, SWITCHYARD_S3_ACCESS_KEY_ID: 'AKIA' })).toEqual([
      'SWITCHYARD_S3_SECRET_ACCESS_KEY: must be set with SWITCHYARD_S3_ACCESS_KEY_ID',
    ]);
  });

  it('takes a mail server with a sender', () => {
    const url = 'smtps://post%40example.com:hunter2@smtp.example.com:465';
    const mail = { SMTP_URL: url, MAIL_FROM: 'Switchyard <no-reply@example.com>' };
    expect(load(mail).mail.smtpUrl?.reveal()).toBe(url);
    expect(load(mail).mail.from).toEqual({ name: 'Switchyard', address: 'no-reply@example.com' });
    expect(load({ MAIL_FROM: 'no-reply@example.com' }).mail.from).toEqual({
      name: '',
      address: 'no-reply@example.com',
    });
    expect(problemsOf({ SMTP_URL: url })).toEqual(['MAIL_FROM: must be set with SMTP_URL']);
    for (const from of [
      'Switchyard',
      'a@b',
      'X <a@example.com',
      'X\r\nBcc: <a@example.com>',
      'a@example.com, b@example.com',
    ])
      expect(problemsOf({ ...mail, MAIL_FROM: from })).toHaveLength(1);
    for (const wrong of [
      'http://smtp.example.com',
      'smtp://',
      'smtp.example.com',
      `${url}/path`,
      `${url}?tls=no`,
      'smtp://a:hunter2%zz@smtp.example.com',
    ]) {
      const problems = problemsOf({ ...mail, SMTP_URL: wrong });
      expect(problems).toHaveLength(1);
      expect(problems[0]).not.toContain('hunter2');
    }
  });

  it('lists everything that is wrong, and no secret', () => {
    const env = {
      PORT: '65536',
      HOST: 'http://here',
      TRUST_PROXY: '-1',
      LOG_LEVEL: 'loud',
      PUBLIC_URL: 'https://user:hunter2hunter2@example.com',
      CORS_ORIGINS: 'https://ok.example,*',
      DATABASE_DIRECT_URL: 'mysql://u:hunter2hunter2@db/x',
      SESSION_SECRET: 'hunter2hunter2',
      METRICS_TOKEN: 'hunter2',
      SWITCHYARD_ROLES: 'api,boss',
      SWITCHYARD_RUN_LEASE_S: '3',
      SWITCHYARD_ADDRESS_PORTS: '30000-20000',
      SWITCHYARD_PERSISTED_ONLY: 'true',
      SWITCHYARD_GRAPHIQL: 'yes',
      SWITCHYARD_MAX_DEPT: '4',
    };
    const problems = problemsOf(env);
    const named = problems.map((line) => line.slice(0, line.indexOf(':')));
    expect(new Set(named)).toEqual(new Set(Object.keys(env)));
    expect(problems).toContain('SWITCHYARD_MAX_DEPT: there is no such setting; did you mean SWITCHYARD_MAX_DEPTH?');
    expect(problems).toContain('PORT: must be a whole number from 0 to 65535 (got "65536")');
    expect(problems.join()).not.toContain('hunter2');
    expect(() => load(env)).toThrow(`${problems.length} problems:\n  ${problems[0] ?? ''}`);
  });

  it('keeps the ports of applications apart from each other and from its own', () => {
    const own = { PORT: '4000', SWITCHYARD_ADDRESS_PORTS: '3999-4001', SWITCHYARD_INSTANCE_PORTS: '5000-5001' };
    expect(problemsOf(own)).toEqual(['SWITCHYARD_ADDRESS_PORTS: must not contain 4000, which is PORT']);
    expect(problemsOf({ ...own, PORT: '4002' })).toEqual([]);
    expect(problemsOf({ SWITCHYARD_ADDRESS_PORTS: '12000-20999', SWITCHYARD_INSTANCE_PORTS: '20999-21000' })).toEqual([
      'SWITCHYARD_INSTANCE_PORTS: must not overlap with SWITCHYARD_ADDRESS_PORTS',
    ]);
  });

  it.each(['', ' 1', '1e3', '0x10', '1.5', '+1', '١', '99999999999999999999', 'NaN'])(
    'refuses %j as a number, or takes it as unset',
    (text) => {
      expect(problemsOf({ SESSION_TTL_S: text })).toHaveLength(text === '' ? 0 : 1);
    },
  );

  it('takes an empty variable as unset', () => {
    const empty = Object.fromEntries(Object.keys(settings).map((name) => [name, '']));
    expect(load({ ...empty, SWITCHYARD_UNKNOWN: '' })).toEqual(load());
  });

  it.each([
    [{ XDG_STATE_HOME: '/x' }, linux, '/x/switchyard'],
    [{ XDG_STATE_HOME: 'relative' }, linux, '/home/u/.local/state/switchyard'],
    [{ HOME: '/h' }, linux, '/h/.local/state/switchyard'],
    [{ HOME: '/h' }, { ...linux, uid: 0 }, '/var/lib/switchyard'],
    [{ XDG_STATE_HOME: '/x' }, { ...linux, uid: 0 }, '/x/switchyard'],
    [{}, { ...linux, platform: 'darwin' as const }, '/home/u/Library/Application Support/switchyard'],
    [{ XDG_STATE_HOME: '/x', SWITCHYARD_STATE_DIR: '/y/' }, linux, '/y'],
  ])('finds the state folder of %j', (env, machine, folder) => {
    expect(load(env, machine).storage.stateDir).toBe(folder);
  });

  it('derives the public URL', () => {
    expect(load({ PORT: '0' }).http.publicUrl).toBeUndefined();
    expect(load({ HOST: '0.0.0.0', PORT: '80' }).http.publicUrl).toBe('http://127.0.0.1');
    expect(load({ HOST: '::1' }).http.publicUrl).toBe('http://[::1]:4000');
    expect(load({ HOST: '::' }).http.publicUrl).toBe('http://[::1]:4000');
  });

  it('uses the database for LISTEN unless told otherwise', () => {
    const url = 'postgres://u:p@db/x';
    expect(load({ DATABASE_URL: url }).database.directUrl?.reveal()).toBe(url);
    expect(load({ DATABASE_URL: url, DATABASE_DIRECT_URL: `${url}2` }).database.directUrl?.reveal()).toBe(`${url}2`);
  });

  it('makes hashes of passwords cheaper for tests, never in production', () => {
    const weak = { SWITCHYARD_PASSWORD_MEMORY_KIB: '64' };
    expect(load(weak).accounts.passwordMemoryKib).toBe(64);
    expect(problemsOf({ ...production, ...weak })).toEqual([
      'SWITCHYARD_PASSWORD_MEMORY_KIB: must be at least 19456 in production',
    ]);
  });

  it('never prints a secret, and cannot be changed', () => {
    const secrets = {
      DATABASE_URL: 'postgres://u:hunter2@db/x',
      REDIS_URL: 'redis://:hunter2@r',
      METRICS_TOKEN: 'hunter2'.repeat(3),
    };
    const config = load({ ...production, ...secrets });
    const printed = [
      JSON.stringify(config),
      inspect(config, { depth: 9, showHidden: true }),
      String(config.wakeUps.redisUrl),
    ];
    expect(printed.join()).not.toMatch(/hunter2|session-session/);
    expect(printed[0]).toContain('[redacted]');
    expect(new Secret('x').reveal()).toBe('x');
    expect(() => Object.assign(config.http, { port: 1 })).toThrow(TypeError);
    expect(() => Object.assign(config.outbound.gitProtocols, ['file'])).toThrow(TypeError);
  });

  it('has an example of every setting that it takes', () => {
    const examples = Object.entries(settings).map(([name, one]) => [name, one.example] as const);
    const env = Object.fromEntries(
      examples.map(([name, text]) => [name, text.startsWith('output of') ? 'x'.repeat(64) : text]),
    );
    const { SWITCHYARD_ENCRYPTION_KEYS: keys } = production;
    const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    env['GITHUB_APP_PRIVATE_KEY'] = privateKey.export({ type: 'pkcs1', format: 'pem' }).toString();
    expect(problemsOf({ ...env, SWITCHYARD_ENCRYPTION_KEYS: keys, SWITCHYARD_ENCRYPTION_KEYS_FILE: '' })).toEqual([]);
    expect(problemsOf({ ...env, SWITCHYARD_ENCRYPTION_KEYS: '' })).toEqual([]);
  });

  it('takes one webhook secret or two, and the RSA key of an App with its id', () => {
    const secret = 'x'.repeat(16);
    const { github } = load({ GITHUB_WEBHOOK_SECRETS: `${secret}, ${'y'.repeat(16)}` });
    expect(github.webhookSecrets.map((one) => one.reveal())).toEqual([secret, 'y'.repeat(16)]);
    for (const text of ['short', `${secret},`, `${secret},${secret},${secret}`])
      expect(problemsOf({ GITHUB_WEBHOOK_SECRETS: text })).toEqual([
        'GITHUB_WEBHOOK_SECRETS: must be one secret, or two, comma-separated, of at least 16 bytes each',
      ]);
    const pem = (type: 'rsa' | 'ed25519') =>
      (type === 'rsa' ? generateKeyPairSync('rsa', { modulusLength: 2048 }) : generateKeyPairSync('ed25519')).privateKey
        .export({ type: 'pkcs8', format: 'pem' })
        .toString()
        .replaceAll('\n', '\\n');
    expect(load({ GITHUB_APP_ID: '1', GITHUB_APP_PRIVATE_KEY: pem('rsa') }).github.app?.id).toBe('1');
    const wrong = 'GITHUB_APP_PRIVATE_KEY: must be a private RSA key in PEM';
    for (const text of ['nonsense', pem('ed25519')])
      expect(problemsOf({ GITHUB_APP_ID: '1', GITHUB_APP_PRIVATE_KEY: text })).toEqual([wrong]);
    expect(problemsOf({ SWITCHYARD_LLM_URL: 'https://llm.example/v1' })).toEqual([
      'SWITCHYARD_LLM_KEY: must be set with SWITCHYARD_LLM_URL',
      'SWITCHYARD_LLM_MODEL: must be set with SWITCHYARD_LLM_URL',
    ]);
    expect(problemsOf({ SWITCHYARD_LLM_KEY: 'key', SWITCHYARD_LLM_MODEL: 'one' })).toEqual([
      'SWITCHYARD_LLM_URL: must be set with SWITCHYARD_LLM_KEY',
    ]);
    expect(problemsOf({ GITHUB_APP_ID: '1' })).toEqual(['GITHUB_APP_PRIVATE_KEY: must be set with GITHUB_APP_ID']);
  });
});
