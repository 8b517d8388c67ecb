import { z } from 'zod';
import { service } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { Denials } from '#kernel/audit/denials.ts';
import { Sessions, type SignedIn } from '#kernel/auth/sessions.ts';
import { timingSafeEqualText } from '#kernel/crypto.ts';
import { RateLimited } from '#kernel/errors.ts';
import { newId } from '#kernel/ids.ts';
import { defineJob } from '#kernel/jobs/define.ts';
import { OutboundRefused } from '#kernel/outbound.ts';
import { OutboundFailed } from '#kernel/outbound-fetch.ts';
import { networkOf } from '#kernel/rates/address.ts';
import { defineThrottle, Throttles } from '#kernel/rates/throttles.ts';
import { SealBroken, UnknownKey } from '#kernel/sealing/errors.ts';
import { Sealing } from '#kernel/sealing/sealing.ts';
import { GitHubRefused } from '../../../integrations/github/index.ts';
import { AnswerRefused, ProviderUnusable } from '../../../integrations/oidc/index.ts';
import { ArrivalRefused } from '../errors.ts';
import { External, type Admission, type Vouched } from './external.ts';
import { Outside, outsideLimit } from './outside.ts';
import { addMember, lockWorkspace } from './shared.ts';
import { isDomainOf, Sso } from './sso.ts';

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

const context = 'sign-in at another system';

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

  const redirectUri = (way: Way): string =>
    `${app.use(Outside).baseUrl()}/auth/${way === 'SSO' ? 'sso' : 'github'}/callback`;

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

  /** What the browser kept, if it is what it began with, and of this way. @throws {ArrivalRefused} */
  const opened = async (way: Way, kept: string | undefined, returned: URL): Promise<Begun> => {
    if (!kept || kept.length > 8192) throw new ArrivalRefused('SIGN_IN_INVALID');
    const text = await app
      .use(Sealing)
      .openText(kept, context)
      .catch((error: unknown) => {
        if (error instanceof SealBroken || error instanceof UnknownKey) throw new ArrivalRefused('SIGN_IN_INVALID');
        throw error;
      });
    const begun = Begun.parse(JSON.parse(text));
    const [state = '', ...more] = returned.searchParams.getAll('state');
    if (begun.way !== way || more.length > 0 || !timingSafeEqualText(state, begun.state)) {
      throw new ArrivalRefused('SIGN_IN_INVALID');
    }
    return begun;
  };

  /** Nobody comes back twice from one sign-in. @throws {ArrivalRefused} */
  const use = async ({ id, expiresAt }: Begun): Promise<void> => {
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
    const at = new URL(redirectUri('SSO'));
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
      { code, verifier: begun.verifier, redirectUri: redirectUri('GITHUB') },
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
    /** Sends somebody to a workspace's provider. @throws {NotIn} */
    async beginSso({ actor }: Browser, connectionId: string, returnTo: string): Promise<Step> {
      try {
        await throttle(actor);
        const connection = await app.use(Sso).open(connectionId);
        if (!connection) throw new ArrivalRefused('PROVIDER_UNKNOWN');
        const there = await app.use(Outside).oidc.begin(connection.client, redirectUri('SSO'), outsideLimit());
        return await begin({ way: 'SSO', connectionId, returnTo, linkTo: null }, there);
      } catch (error) {
        return refuse(actor, 'SSO', error, returnTo);
      }
    },

    /** Sends somebody to GitHub, to sign in, or, signed in, to link who they are there. @throws {NotIn} */
    async beginGitHub({ actor }: Browser, returnTo: string, link: boolean): Promise<Step> {
      try {
        await throttle(actor);
        const { github } = app.use(Outside);
        if (!github) throw new ArrivalRefused('PROVIDER_UNKNOWN');
        if (link && (actor.kind !== 'SESSION' || actor.userId === null)) throw new ArrivalRefused('LINK_NEEDS_SESSION');
        const there = github.begin(redirectUri('GITHUB'));
        return await begin({ way: 'GITHUB', connectionId: null, returnTo, linkTo: link ? actor.userId : null }, there);
      } catch (error) {
        return refuse(actor, 'GITHUB', error, returnTo);
      }
    },

    /**
     * Ends what somebody began, when their browser comes back.
     * @param kept what it was given when it began
     * @param returned the address that it came back to
     * @throws {NotIn}
     */
    async finish({ actor }: Browser, way: Way, kept: string | undefined, returned: URL): Promise<Step> {
      let begun: Begun | null = null;
      try {
        await throttle(actor);
        begun = await opened(way, kept, returned);
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
export const cleanUpSignIns = defineJob({
  name: 'identity.cleanUpSignIns',
  payload: z.object({}),
  attempts: 3,
  retryDelayS: 60,
  timeoutS: 300,
  cron: '37 * * * *',
  async handle(_payload, { app }) {
    await app.db.usedSignIn.deleteMany({ where: { expiresAt: { lt: new Date() } } });
  },
});
