import { until } from '../../support/embedded.ts';
import { data, send, type Answer, type Auth } from '../../support/client.ts';
import type { TestServer } from '../../support/server.ts';

export const password = 'correct horse battery staple';
export const other = 'eleven purple giraffes sing';

/** What a mutation answers: its type, and what is asked of its members. */
export type Said = { readonly __typename: string } & Record<string, unknown>;

/** From where a request comes, for a server that trusts one proxy. */
export const from = (address: string): Record<string, string> => ({ 'x-forwarded-for': address });

/** One mutation with its errors' fields, and `more` of its success type. */
export async function mutate(
  server: TestServer,
  name: string,
  input: object | null,
  auth: Auth = {},
  more = '',
  headers: Record<string, string> = {},
): Promise<Said> {
  const answer = await ask(server, name, input, auth, more, headers);
  const said = answer.data?.[name];
  if (!said) throw new Error(`${name}: ${JSON.stringify(answer.errors)}`);
  return said;
}

/** The same, with whatever the server answers. */
export function ask(
  server: TestServer,
  name: string,
  input: object | null,
  auth: Auth = {},
  more = '',
  headers: Record<string, string> = {},
): Promise<Answer<Record<string, Said>>> {
  const type = `${name.charAt(0).toUpperCase()}${name.slice(1)}`;
  const fields = `{ __typename ... on Error { code message } ... on ValidationError { issues { path message } } ${more && `... on ${type}Success { ${more} }`} ${errorFields[name] ?? ''} }`;
  const document =
    input === null
      ? `mutation { ${name} ${fields} }`
      : `mutation ($input: ${type}Input!) { ${name}(input: $input) ${fields} }`;
  return send<Record<string, Said>>(server.url, document, { input }, auth, headers);
}

/** The code of what a mutation is refused with, wherever it stands; the success type's name when it is not. */
export async function refusal(
  server: TestServer,
  name: string,
  input: object | null,
  auth: Auth = {},
): Promise<string> {
  const { data, errors } = await ask(server, name, input, auth);
  const code = errors?.[0]?.extensions?.['code'] ?? data?.[name]?.['code'];
  return typeof code === 'string' ? code : (data?.[name]?.__typename ?? '');
}

const errorFields: Readonly<Record<string, string>> = {
  signIn: '... on RateLimited { resetAt }',
  changeEmail: '... on ReauthenticationRequired { proof }',
  beginIdentityLink: '... on ReauthenticationRequired { proof }',
  changePassword: '... on ReauthenticationRequired { proof }',
  unlinkIdentity: '... on ReauthenticationRequired { proof }',
  deleteMyAccount: '... on ReauthenticationRequired { proof } ... on LastOwnerOf { workspaces { id name } }',
  saveUserState: '... on VersionConflict { currentVersion }',
};

export interface Account extends Auth {
  readonly id: string;
  readonly email: string;
  readonly token: string;
}

let made = 0;

/** A new person with a password. */
export async function account(
  server: TestServer,
  name = 'Ada',
  headers: Record<string, string> = {},
): Promise<Account> {
  const email = `person-${process.pid}-${++made}@example.com`;
  const said = await mutate(server, 'signUp', { email, password, name }, {}, 'token user { id }', headers);
  if (said.__typename !== 'SignUpSuccess') throw new Error(JSON.stringify(said));
  return { id: (said['user'] as { id: string }).id, email, token: said['token'] as string };
}

export interface DevMail {
  readonly to: string;
  readonly subject: string;
  readonly text: string;
}

/** Mails to an address, newest first. */
export async function mailsTo(server: TestServer, address: string): Promise<DevMail[]> {
  const url = new URL('/dev/mail', server.url);
  url.searchParams.set('to', address);
  return (await (await fetch(url)).json()) as DevMail[];
}

/** The newest mail to an address with this subject, once there are so many of them. */
export async function mail(server: TestServer, address: string, subject: RegExp, count = 1): Promise<DevMail> {
  let found: DevMail[] = [];
  await until(`there are ${count} mails ${subject} to ${address}`, async () => {
    found = (await mailsTo(server, address)).filter((one) => subject.test(one.subject));
    return found.length >= count;
  });
  return found[0] as DevMail;
}

export const tokenIn = ({ text }: DevMail): string => /#token=([\w-]{43})$/m.exec(text)?.[1] ?? '';

export const verification = /confirm your e-mail/;
export const change = /confirm your new e-mail/;
export const reset = /Set a new password/;

/** What the receipt of a deleted account tells; null for no receipt. */
export interface AccountReceipt {
  readonly status: string;
  readonly requestedAt: string;
  readonly completedAt: string | null;
  readonly report: readonly { readonly name: string; readonly count: number }[];
}
export async function accountReceipt(url: string, receipt: string): Promise<AccountReceipt | null> {
  const asked = `query ($receipt: String!) { accountDeletion(receipt: $receipt) {
    status requestedAt completedAt report { name count } } }`;
  return (await data<{ accountDeletion: AccountReceipt | null }>(url, asked, { receipt })).accountDeletion;
}
/** The same, once the deletion is over. */
export const accountDeleted = (url: string, receipt: string): Promise<AccountReceipt> =>
  completed('the deletion of the account is over', () => accountReceipt(url, receipt));

/** What the receipt of a deleted workspace tells; null for no receipt. */
export interface WorkspaceReceipt {
  readonly status: string;
  readonly phase: string;
  readonly statusReason: string | null;
  readonly completedAt: string | null;
  readonly report: readonly { readonly name: string; readonly removed: number; readonly left: readonly string[] }[];
}
export async function workspaceReceipt(url: string, receipt: string): Promise<WorkspaceReceipt | null> {
  const asked = `query ($receipt: String!) { workspaceDeletion(receipt: $receipt) {
    status phase statusReason requestedAt completedAt report { name removed left } } }`;
  return (await data<{ workspaceDeletion: WorkspaceReceipt | null }>(url, asked, { receipt })).workspaceDeletion;
}
/** The same, once the deletion is over. */
export const workspaceDeleted = (url: string, receipt: string): Promise<WorkspaceReceipt> =>
  completed('the deletion of the workspace is over', () => workspaceReceipt(url, receipt));

async function completed<T extends { completedAt: string | null }>(what: string, ask: () => Promise<T | null>) {
  let last: T | null = null;
  await until(what, async () => (last = await ask())?.completedAt != null, 50_000);
  return last as unknown as T;
}

export interface UserState {
  readonly version: number;
  readonly value: Record<string, unknown>;
  readonly updatedAt: string | null;
}
export const userState = async (server: TestServer, auth: Auth): Promise<UserState> =>
  (
    await data<{ viewer: { state: UserState } }>(
      server.url,
      '{ viewer { state { version value updatedAt } } }',
      {},
      auth,
    )
  ).viewer.state;

/**
 * Writers patch the state of one person at once, each its own fields and one of a shared object. What the state is then,
 * and what it is when no field was lost.
 */
export async function patchAtOnce(server: TestServer, auth: Auth, writers: number, patches: number) {
  await Promise.all(
    Array.from({ length: writers }, async (_, writer) => {
      for (let i = 0; i < patches; i++) {
        const patch = { [`w${writer}`]: { [`f${i}`]: i }, shared: { [`w${writer}`]: i } };
        const said = await mutate(server, 'patchUserState', { patch }, auth);
        if (said.__typename !== 'PatchUserStateSuccess') throw new Error(JSON.stringify(said));
      }
    }),
  );
  const { version, value } = await userState(server, auth);
  const all = Object.fromEntries(Array.from({ length: patches }, (_, i) => [`f${i}`, i]));
  const shared = Object.fromEntries(Array.from({ length: writers }, (_, writer) => [`w${writer}`, patches - 1]));
  const each = Object.fromEntries(Array.from({ length: writers }, (_, writer) => [`w${writer}`, all]));
  return { state: { version, value }, expected: { version: writers * patches, value: { ...each, shared } } };
}
