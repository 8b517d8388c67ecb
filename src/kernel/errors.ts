/** What the caller can act on. Thrown by services, shown to clients as a member of the field's result union. */
export abstract class DomainError extends Error {
  /** Stable, documented in docs/errors.md; never renamed once released. */
  abstract readonly code: string;
}

/** What the caller gave, short enough to be told back. */
export const excerpt = (text: string, most = 100): string =>
  text.length > most ? `${text.slice(0, most - 1).toWellFormed()}…` : text;

/** More of them are not told: an input can be wrong in as many places as it is long. */
const maxIssues = 50;

/** One thing that is wrong with an input. `path` is dot-separated from the input's root. */
export interface Issue {
  readonly path: string;
  readonly message: string;
}

/** The input itself is wrong; names every field that is (the first 50), not just the first. */
export class ValidationError extends DomainError {
  readonly code = 'VALIDATION_ERROR';
  readonly issues: readonly Issue[];
  constructor(issues: readonly Issue[]) {
    // Names of fields can be the caller's own, and messages quote what was given.
    const told = issues
      .slice(0, maxIssues)
      .map(({ path, message }) => ({ path: excerpt(path), message: excerpt(message, 300) }));
    super(told.map((issue) => (issue.path ? `${issue.path}: ${issue.message}` : issue.message)).join('; '));
    this.issues = told;
  }
}

/** There is no such thing, or the caller may not know that there is. */
export class NotFound extends DomainError {
  readonly code = 'NOT_FOUND';
  readonly kind: string;
  readonly id: string;
  /** The verb that was refused to a stranger, for the audit log only; null: there is no such thing. */
  readonly refused: string | null;
  constructor(kind: string, id: string, refused: string | null = null) {
    const told = excerpt(id);
    super(`There is no ${kind} ${told}.`);
    this.kind = kind;
    this.id = told;
    this.refused = refused;
  }
}

/** Somebody who may know of the thing asked for what their role or credential does not allow. */
export class Forbidden extends DomainError {
  readonly code = 'FORBIDDEN';
  /** The verb that was refused, for instance `deployments.createDeployment`. */
  readonly verb: string;
  /** The workspace whose audit log tells of it; null: it belongs to none. */
  readonly workspaceId: string | null;
  /** The thing that it was asked for, for the audit log only. */
  readonly target: { readonly targetType?: string; readonly targetId?: string };
  constructor(verb: string, workspaceId: string | null = null, target: { kind: string; id: string } | null = null) {
    super(`Your role or credential does not allow ${verb}.`);
    this.verb = verb;
    this.workspaceId = workspaceId;
    this.target = target ? { targetType: target.kind, targetId: excerpt(target.id) } : {};
  }
}

/** Nobody is signed in, or the credential is no longer good. */
export class Unauthenticated extends DomainError {
  readonly code = 'UNAUTHENTICATED';
  constructor(message = 'Sign in first.') {
    super(message);
  }
}

/** The thing was changed, or exists, since the caller looked. */
export class Conflict extends DomainError {
  readonly code = 'CONFLICT';
}

/** The thing's state does not allow the change. */
export class IllegalTransition extends DomainError {
  readonly code = 'ILLEGAL_TRANSITION';
  readonly from: string;
  readonly to: string;
  readonly allowed: readonly string[];
  constructor(from: string, to: string, allowed: readonly string[]) {
    super(
      `It cannot go from ${from} to ${to}${allowed.length ? `, only to ${allowed.join(', ')}` : ': that is final'}.`,
    );
    this.from = from;
    this.to = to;
    this.allowed = allowed;
  }
}

/** The same idempotency key was used with another input. */
export class IdempotencyConflict extends DomainError {
  readonly code = 'IDEMPOTENCY_CONFLICT';
  readonly key: string;
  constructor(key: string) {
    super(`The idempotency key ${excerpt(key)} was used with another input in the last 24 hours.`);
    this.key = key;
  }
}

/** Too much, too fast. Nothing was done; try again at `resetAt`. */
export class RateLimited extends DomainError {
  readonly code = 'RATE_LIMITED';
  /** From then on there is room again. */
  readonly resetAt: Date;
  constructor(resetAt: Date, message = 'Too many requests.') {
    super(`${message} Try again at ${resetAt.toISOString()}.`);
    this.resetAt = resetAt;
  }
  /** Whole seconds from now, at least 1: for `Retry-After`. */
  get retryAfterS(): number {
    return Math.max(1, Math.ceil((this.resetAt.getTime() - Date.now()) / 1000));
  }
}

/** Whoever vouches for a token cannot be asked for its keys now. The token may be good: try again later. */
export class IssuerUnavailable extends DomainError {
  readonly code = 'ISSUER_UNAVAILABLE';
  constructor() {
    super('The issuer of the token cannot be asked for its keys now. Try again later.');
  }
}
