import { z } from 'zod';
import { service } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorize } from '#kernel/auth/policy.ts';
import { Denials } from '#kernel/audit/denials.ts';
import { Sessions, type SignedIn } from '#kernel/auth/sessions.ts';
import { timingSafeEqualText } from '#kernel/crypto.ts';
import { Forbidden, RateLimited } from '#kernel/errors.ts';
import { newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { defineRetention } from '#kernel/jobs/retention.ts';
import { OutboundRefused } from '#kernel/outbound.ts';
import { OutboundFailed } from '#kernel/outbound-fetch.ts';
import { networkOf } from '#kernel/rates/address.ts';
import { defineThrottle, Throttles } from '#kernel/rates/throttles.ts';
import { SealBroken, UnknownKey } from '#kernel/sealing/errors.ts';
import { Sealing } from '#kernel/sealing/sealing.ts';
import { GitHubRefused } from '../../../integrations/github/index.ts';
import { AnswerRefused, ProviderUnusable } from '../../../integrations/oidc/index.ts';
import { ArrivalRefused } from '../errors.ts';
import { IdentityLink } from '../model.ts';
import { can } from '../policy.ts';
import { External, type Admission, type Vouched } from './external.ts';
import { Outside, outsideLimit } from './outside.ts';
import { reauthenticate } from './reauthentication.ts';
import { addMember, lockWorkspace } from './shared.ts';
import { isDomainOf, Sso, ssoCallbackPath } from './sso.ts';

const arrivals = defineThrottle({
  name: 'identity.outside.network',
  description: 'Sign-ins at other systems that were begun or came back, by network of the client',
  points: 300,
  durationS: 600,
});

/** How long somebody may take at the other system, seconds. */
export const signInTtlS = 600;

/** What the browser keeps while its person is at the other system: sealed, so that nobody reads or makes one. */
const Begun = z.object({
  id: z.uuid(),
  way: z.enum(['SSO', 'GITHUB']),
  /** Of the workspace's provider, for SSO. */
  connectionId: z.uuid().nullable(),
  state: z.string(),
  nonce: z.string(),
  verifier: z.string(),
  returnTo: z.string(),
  /** The account that another identity is to be linked to; null: somebody signs in. */
  linkTo: z.uuid().nullable(),
  /** Milliseconds since 1970. */
  expiresAt: z.number(),
});
type Begun = z.output<typeof Begun>;
type Way = Begun['way'];

/** @param connectionId of a workspace's provider; null: GitHub */
const wayOf = (connectionId: string | null): Way => (connectionId === null ? 'GITHUB' : 'SSO');

const context = 'sign-in at another system';

/** How long an address is good that links an identity, seconds. */
const linkTtlS = 300;

/** Stands sealed in that address: who proved who they are, and in which session. */
const Link = z.object({ id: z.uuid(), userId: z.uuid(), sessionId: z.uuid(), expiresAt: z.number() });
type Link = z.output<typeof Link>;

const linkContext = 'link of another identity';

/** Where the browser goes next. */
export interface Step {
  readonly location: string;
  /** To be kept by the browser until it comes back; null: nothing more. */
  readonly kept: string | null;
  /** The session that was opened. */
  readonly session: SignedIn | null;
}

/** A refusal, and where to tell of it; null: nowhere but in the answer. */
export class NotIn extends Error {
  readonly refusal: ArrivalRefused;
  readonly returnTo: string | null;
  constructor(refusal: ArrivalRefused, returnTo: string | null) {
    super(refusal.code, { cause: refusal });
    this.refusal = refusal;
    this.returnTo = returnTo;
  }
}

/** Whoever begins and comes back, as far as it is known: no credential is needed for either. */
export interface Browser {
  /** Signed in or not; its origin is that of the request. */
  readonly actor: Actor;
}

/**
 * A place that a browser may be sent to when it is signed in: a path of this server, or an address at an allowed
 * origin, written as the browser will read it. Null for everything else.
 */
export function safeReturn(text: string, own: string, allowed: ReadonlySet<string>): string | null {
  // Browsers drop tabs and line ends, and take a backslash for a slash.
  if (text.length > 1000 || /[^\x21-\x7e]|\\/.test(text)) return null;
  const isPath = text.startsWith('/') && !text.startsWith('//');
  if (!isPath && !/^https?:\/\/[^/]/i.test(text)) return null;
  const url = URL.parse(text, own);
  if (!url || url.username || url.password) return null;
  if (!isPath) return allowed.has(url.origin) ? url.href : null;
  return url.origin === new URL(own).origin && !url.pathname.startsWith('//')
    ? url.pathname + url.search + url.hash
    : null;
}

/** Sign-ins at other systems: they begin here, go on there, and end here. */
export const OutsideSignIns = service('outside sign-ins', (app) => {
  const refuse = (actor: Actor, way: Way, error: unknown, returnTo: string | null): never => {
    const refusal = asRefusal(error);
    if (!refusal) throw error;
    app.use(Denials).signIn(actor, way, refusal.code, refusal.userId);
    if (refusal.cause) app.log.warn({ err: refusal.cause, way, code: refusal.code }, 'sign-in refused');
    throw new NotIn(refusal, returnTo);
  };

  const throttle = async ({ origin }: Actor): Promise<void> => {
    await app.use(Throttles).consume(arrivals, networkOf(origin?.address ?? ''));
  };

  /** @param connectionId of the workspace's provider; null: GitHub */
  const redirectUri = (connectionId: string | null): string =>
    `${app.use(Outside).baseUrl()}${connectionId === null ? '/auth/github/callback' : ssoCallbackPath(connectionId)}`;

  const begin = async (
    of: Pick<Begun, 'way' | 'connectionId' | 'returnTo' | 'linkTo'>,
    there: { readonly url: string; readonly state: string; readonly nonce?: string; readonly verifier: string },
  ): Promise<Step> => {
    const { state, verifier, nonce = '' } = there;
    const begun: Begun = { id: newId(), ...of, state, nonce, verifier, expiresAt: Date.now() + signInTtlS * 1000 };
    return {
      location: there.url,
      kept: await app.use(Sealing).seal(JSON.stringify(begun), context),
      session: null,
    };
  };

  /** What this server sealed; null for everything else. */
  const unsealed = async <T>(schema: z.ZodType<T>, text: string, of: string): Promise<T | null> => {
    if (text.length > 8192) return null;
    try {
      return schema.parse(JSON.parse(await app.use(Sealing).openText(text, of)));
    } catch (error) {
      if (error instanceof SealBroken || error instanceof UnknownKey) return null;
      throw error;
    }
  };

  /**
   * What the browser kept, if it is what it began with, and this is where that comes back to: the answer of another
   * provider than the one that it was sent to goes to nobody.
   * @param connectionId of the address that it came back to; null: GitHub
   * @throws {ArrivalRefused}
   * @see https://www.rfc-editor.org/rfc/rfc9700#section-4.4.2 Mix-up defences
   */
  const opened = async (connectionId: string | null, kept: string | undefined, returned: URL): Promise<Begun> => {
    const begun = await unsealed(Begun, kept ?? '', context);
    const [state = '', ...more] = returned.searchParams.getAll('state');
    const here = begun?.way === wayOf(connectionId) && begun.connectionId === connectionId;
    if (!here || more.length > 0 || !timingSafeEqualText(state, begun.state)) {
      throw new ArrivalRefused('SIGN_IN_INVALID');
    }
    return begun;
  };

  /** Whom an address of `beginIdentityLink` is for, once, in the session that asked for it. @throws {ArrivalRefused} */
  const linkOf = async (actor: Actor, text: string): Promise<string> => {
    const link = await unsealed(Link, text, linkContext);
    const own = actor.kind === 'SESSION' && actor.userId === link?.userId && actor.credentialId === link?.sessionId;
    if (!link || !own) throw new ArrivalRefused('LINK_NEEDS_SESSION', { userId: actor.userId });
    await use(link);
    return link.userId;
  };

  /** Nobody comes back twice from one sign-in. @throws {ArrivalRefused} */
  const use = async ({ id, expiresAt }: Begun | Link): Promise<void> => {
    if (expiresAt <= Date.now()) throw new ArrivalRefused('SIGN_IN_EXPIRED');
    const { count } = await app.db.usedSignIn.createMany({
      data: [{ id, expiresAt: new Date(expiresAt) }],
      skipDuplicates: true,
    });
    if (count === 0) throw new ArrivalRefused('SIGN_IN_USED');
  };

  const finishSso = async (actor: Actor, begun: Begun, returned: URL): Promise<SignedIn> => {
    const connection = await app.use(Sso).open(begun.connectionId ?? '');
    if (!connection) throw new ArrivalRefused('PROVIDER_UNKNOWN');
    const { id, workspaceId, trustEmail } = connection;
    const at = new URL(redirectUri(id));
    at.search = returned.search;
    const token = await app.use(Outside).oidc.finish(connection.client, at, begun, outsideLimit());
    const vouched: Vouched = {
      provider: `sso:${id}`,
      subject: token.subject,
      email: token.email,
      // What the provider says goes; where it says nothing, what the workspace's owner said of it.
      emailVerified: token.emailVerified ?? trustEmail,
      name: token.name,
    };
    const admission: Admission = {
      mayBe: (tx, email) => isDomainOf(tx, workspaceId, email),
      mayMake: connection.provisionRole === null ? 'SSO_NOT_A_MEMBER' : true,
    };
    return app.use(External).arrive(actor, vouched, admission, async (tx, userId) => {
      if (!(await lockWorkspace(tx, workspaceId))) throw new ArrivalRefused('PROVIDER_UNKNOWN', { userId });
      // As it is now: it may have been switched off while they were there.
      const now = await tx.db.ssoConnection.findUnique({ where: { id, disabledAt: null } });
      if (!now) throw new ArrivalRefused('PROVIDER_UNKNOWN', { userId });
      const membership = await tx.db.membership.findUnique({ where: { workspaceId_userId: { workspaceId, userId } } });
      if (!membership) {
        if (now.provisionRole === null) throw new ArrivalRefused('SSO_NOT_A_MEMBER', { userId });
        await addMember(tx, workspaceId, userId, now.provisionRole);
      }
      return app.use(Sessions).open(tx, { userId, method: 'SSO', ssoConnectionId: id, origin: actor.origin });
    });
  };

  const finishGitHub = async (actor: Actor, begun: Begun, returned: URL): Promise<SignedIn | null> => {
    const { github } = app.use(Outside);
    if (!github) throw new ArrivalRefused('PROVIDER_UNKNOWN');
    if (begun.linkTo !== null && actor.userId !== begun.linkTo) throw new ArrivalRefused('LINK_NEEDS_SESSION');
    const said = returned.searchParams.get('error');
    if (said !== null) throw new ArrivalRefused(said === 'access_denied' ? 'ACCESS_DENIED' : 'PROVIDER_REFUSED');
    const [code = '', ...more] = returned.searchParams.getAll('code');
    if (code === '' || code.length > 200 || more.length > 0) throw new ArrivalRefused('PROVIDER_REFUSED');
    const user = await github.finish(
      { code, verifier: begun.verifier, redirectUri: redirectUri(null) },
      outsideLimit(),
    );
    const vouched: Vouched = {
      provider: 'github',
      subject: user.subject,
      email: user.email,
      emailVerified: true,
      name: user.name,
      token: { text: user.token, scopes: user.scopes },
    };
    if (begun.linkTo !== null) {
      await app.use(External).link(actor, begun.linkTo, vouched);
      return null;
    }
    const anybody: Admission = { mayBe: async () => true, mayMake: true };
    return app
      .use(External)
      .arrive(actor, vouched, anybody, (tx, userId) =>
        app.use(Sessions).open(tx, { userId, method: 'GITHUB', origin: actor.origin }),
      );
  };

  return {
    /**
     * Whom to ask somebody about whom a page of another site sends to sign in.
     * @param connectionId of a workspace's provider; null: GitHub
     * @returns its name, and the host where it is
     * @throws {NotIn}
     */
    async provider(
      { actor }: Browser,
      connectionId: string | null,
      returnTo: string,
    ): Promise<{ readonly name: string; readonly host: string | null }> {
      try {
        await throttle(actor);
        if (connectionId === null) {
          if (!app.use(Outside).github) throw new ArrivalRefused('PROVIDER_UNKNOWN');
          return { name: 'GitHub', host: null };
        }
        const connection = await app.use(Sso).open(connectionId);
        if (!connection) throw new ArrivalRefused('PROVIDER_UNKNOWN');
        return { name: connection.name, host: new URL(connection.issuer).host };
      } catch (error) {
        return refuse(actor, wayOf(connectionId), error, returnTo);
      }
    },

    /**
     * The address of this server that links who somebody is at GitHub to their account: a way in of its own, so they
     * prove who they are first. It is good once, for five minutes, in their session only.
     * @throws {ValidationError} {Unauthenticated} {Forbidden} unless by a session, {ReauthenticationRequired} {RateLimited}
     */
    async beginIdentityLink(actor: Actor, raw: unknown): Promise<string> {
      const { password } = parse(IdentityLink, raw);
      authorize(actor, can.beginIdentityLink, null);
      const sessionId = actor.kind === 'SESSION' ? actor.credentialId : null;
      if (sessionId === null) throw new Forbidden(can.beginIdentityLink.name, null);
      const { id: userId } = await reauthenticate(app, actor, password);
      const link: Link = { id: newId(), userId, sessionId, expiresAt: Date.now() + linkTtlS * 1000 };
      const url = new URL(`${app.use(Outside).baseUrl()}/auth/github`);
      url.searchParams.set('link', await app.use(Sealing).seal(JSON.stringify(link), linkContext));
      return url.href;
    },

    /** Sends somebody to a workspace's provider. @throws {NotIn} */
    async beginSso({ actor }: Browser, connectionId: string, returnTo: string): Promise<Step> {
      try {
        await throttle(actor);
        const connection = await app.use(Sso).open(connectionId);
        if (!connection) throw new ArrivalRefused('PROVIDER_UNKNOWN');
        const there = await app.use(Outside).oidc.begin(connection.client, redirectUri(connection.id), outsideLimit());
        return await begin({ way: 'SSO', connectionId: connection.id, returnTo, linkTo: null }, there);
      } catch (error) {
        return refuse(actor, 'SSO', error, returnTo);
      }
    },

    /**
     * Sends somebody to GitHub, to sign in, or to link who they are there.
     * @param link of the address that `beginIdentityLink` gave; null: to sign in
     * @throws {NotIn}
     */
    async beginGitHub({ actor }: Browser, returnTo: string, link: string | null): Promise<Step> {
      try {
        await throttle(actor);
        const { github } = app.use(Outside);
        if (!github) throw new ArrivalRefused('PROVIDER_UNKNOWN');
        const linkTo = link === null ? null : await linkOf(actor, link);
        return await begin({ way: 'GITHUB', connectionId: null, returnTo, linkTo }, github.begin(redirectUri(null)));
      } catch (error) {
        return refuse(actor, 'GITHUB', error, returnTo);
      }
    },

    /**
     * Ends what somebody began, when their browser comes back.
     * @param connectionId of the address that it came back to; null: GitHub
     * @param kept what it was given when it began
     * @param returned the address that it came back to
     * @throws {NotIn}
     */
    async finish(
      { actor }: Browser,
      connectionId: string | null,
      kept: string | undefined,
      returned: URL,
    ): Promise<Step> {
      const way = wayOf(connectionId);
      let begun: Begun | null = null;
      try {
        await throttle(actor);
        begun = await opened(connectionId, kept, returned);
        await use(begun);
        const session =
          way === 'SSO' ? await finishSso(actor, begun, returned) : await finishGitHub(actor, begun, returned);
        return { location: begun.returnTo, kept: null, session };
      } catch (error) {
        return refuse(actor, way, error, begun?.returnTo ?? null);
      }
    },
  };
});

/** What a client is told of an error; null: a fault of this server. */
function asRefusal(error: unknown): ArrivalRefused | null {
  if (error instanceof ArrivalRefused) return error;
  if (error instanceof RateLimited) return new ArrivalRefused('RATE_LIMITED');
  if (error instanceof AnswerRefused) {
    return new ArrivalRefused(error.said === 'access_denied' ? 'ACCESS_DENIED' : 'PROVIDER_REFUSED', { cause: error });
  }
  if (error instanceof GitHubRefused && error.code !== null) {
    return new ArrivalRefused('PROVIDER_REFUSED', { cause: error });
  }
  const away = [ProviderUnusable, GitHubRefused, OutboundFailed, OutboundRefused].some((type) => error instanceof type);
  return away ? new ArrivalRefused('PROVIDER_UNAVAILABLE', { cause: error }) : null;
}

/** Forgets sign-ins that nobody can come back from any more. */
defineRetention({
  name: 'identity.cleanUpSignIns',
  cron: '37 * * * *',
  async remove(app) {
    const { count: signIns } = await app.db.usedSignIn.deleteMany({ where: { expiresAt: { lt: new Date() } } });
    return { signIns };
  },
});
