"""Files of an invented consortium with all five kinds of data; nothing shows a real patient."""
