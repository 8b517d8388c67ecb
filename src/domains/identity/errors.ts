import { DomainError } from '#kernel/errors.ts';

/** Unknown address or wrong password: the answer is the same. */
export class SignInRefused extends DomainError {
  readonly code = 'SIGN_IN_REFUSED';
  constructor() {
    super('The e-mail address or the password is wrong.');
  }
}

/** A workspace must keep an owner. */
export class LastOwner extends DomainError {
  readonly code = 'LAST_OWNER';
  constructor() {
    super('This is the last owner of the workspace. Make somebody else an owner first.');
  }
}
