import { v7, validate } from 'uuid';

/** A new UUIDv7: sorts by time of creation. @see https://www.rfc-editor.org/rfc/rfc9562#section-5.7 */
export const newId = (): string => v7();

export const isId = (text: string): boolean => validate(text);
