import { describe, expect, test } from 'vitest';
import { createGitHub, GitHubRefused } from '../../../src/integrations/github/index.ts';
import type { OutboundInit } from '../../../src/kernel/outbound-fetch.ts';

const answers: Readonly<Record<string, unknown>> = {
  '/login/oauth/access_token': { access_token: 'gho_x', token_type: 'bearer', scope: 'read:user,user:email' },
  '/user': { id: 42, login: 'octocat', name: null },
  '/user/emails': [{ email: 'a@example.com', primary: true, verified: true }],
};

function github(given: Record<string, unknown> = {}, status = 200) {
  const asked: { url: URL; init: OutboundInit | undefined }[] = [];
  const made = createGitHub({
    url: 'https://github.example',
    apiUrl: 'https://github.example/api/v3',
    clientId: 'client',
    clientSecret: 'the secret',
    fetch: async (url, init) => {
      asked.push({ url: new URL(url), init });
      init?.signal?.throwIfAborted();
      const path = new URL(url).pathname.replace('/api/v3', '');
      const answer = { ...answers, ...given }[path];
      return typeof answer === 'string' ? new Response(answer, { status }) : Response.json(answer, { status });
    },
  });
  const finish = (signal = AbortSignal.timeout(10_000)) =>
    made.finish({ code: 'the code', verifier: 'the verifier', redirectUri: 'https://own.example/cb' }, signal);
  return { made, asked, finish };
}

describe('GitHub', () => {
  test('is told the verifier and the secret in the body, and the token in a header: never in an address', async () => {
    const { asked, finish } = github();
    expect(await finish()).toEqual({
      subject: '42',
      name: 'octocat',
      email: 'a@example.com',
      token: 'gho_x',
      scopes: ['read:user', 'user:email'],
    });
    expect(asked.map(({ url }) => url.href)).toEqual([
      'https://github.example/login/oauth/access_token',
      'https://github.example/api/v3/user',
      'https://github.example/api/v3/user/emails',
    ]);
    expect(Object.fromEntries(asked[0]?.init?.body as URLSearchParams)).toEqual({
      client_id: 'client',
      client_secret: 'the secret',
      code: 'the code',
      code_verifier: 'the verifier',
      redirect_uri: 'https://own.example/cb',
    });
  });

  test('is left when the signal says so', async () => {
    const error: unknown = await github()
      .finish(AbortSignal.abort())
      .catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(GitHubRefused);
    expect(error).toMatchObject({ code: null });
  });

  test('begins with a state and a challenge that are new each time', () => {
    const { made } = github();
    const [one, two] = [made.begin('https://own.example/cb'), made.begin('https://own.example/cb')];
    expect(new Set([one.state, two.state, one.verifier, two.verifier]).size).toBe(4);
    expect(one.url).not.toContain(one.verifier);
  });

  test.each([
    ['a primary address that is not verified', [{ email: 'a@example.com', primary: true, verified: false }]],
    ['a verified address that is not primary', [{ email: 'a@example.com', primary: false, verified: true }]],
    ['no address', []],
  ])('vouches for no address: %s', async (_, emails) => {
    expect((await github({ '/user/emails': emails }).finish()).email).toBeNull();
  });

  test.each<[string, Record<string, unknown>, number, string | null]>([
    [
      'a code that is bad',
      { '/login/oauth/access_token': { error: 'bad_verification_code' } },
      200,
      'bad_verification_code',
    ],
    ['an outage', {}, 503, null],
    ['a page', { '/user': '<html>' }, 200, null],
    ['an id that is none', { '/user': { id: '42', login: 'octocat' } }, 200, null],
    ['emails that are none', { '/user/emails': { message: 'Not Found' } }, 200, null],
    ['no token', { '/login/oauth/access_token': {} }, 200, null],
  ])('%s', async (_, given, status, code) => {
    const error: unknown = await github(given, status)
      .finish()
      .catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(GitHubRefused);
    expect(error).toMatchObject({ code });
    expect(String(error)).not.toMatch(/the secret|gho_x|the code/);
  });
});
